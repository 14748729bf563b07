"""Decoders that see one chunk: the local models of MegaByte, and the character decoders of word models."""

import flax.linen as nn
import jax.numpy as jnp


class WithinChunks(nn.Module):
    """A stack that starts anew at every chunk, with the interface of a stack, for a hierarchy's decoder.

    A position sees the positions of its chunk up to itself, and of everything before only what the chunk's own vector
    tells (MegaByte, arXiv 2305.07185, section 2.1). `length`: positions of the longest chunk that FLOPs are counted with.
    """

    stack: nn.Module
    length: int

    @property
    def d_model(self):
        """Width."""
        return self.stack.d_model

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """Returns (y_BLD, ()); chunks start at `start_BL`."""
        chunk_BL = jnp.where(segment_ids_BL > 0, jnp.cumsum(start_BL, axis=1, dtype=jnp.int32), 0)
        return self.stack(x_BLD, tokens_BL, chunk_BL)

    @nn.nowrap
    def init_cache(self, batch, length):
        """The stack's: a chunk may be as long as the text."""
        return self.stack.init_cache(batch, length)

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache, start_BL=None):
        """Forward over right-padded prompts; the caches hold each row's last chunk, moved to the front."""
        y_BLD, _ = self(x_BLD, tokens_BL, valid_BL.astype(jnp.int32), start_BL=start_BL & valid_BL)
        position_L = jnp.arange(x_BLD.shape[1])
        last_B1 = jnp.max(jnp.where(start_BL & valid_BL, position_L, 0), axis=1, keepdims=True)
        tail_BL = position_L < jnp.sum(valid_BL, axis=1, keepdims=True) - last_B1
        moved_BL = jnp.minimum(position_L + last_B1, x_BLD.shape[1] - 1)
        x_BLD = jnp.take_along_axis(x_BLD, moved_BL[..., None], axis=1)
        return y_BLD, self.stack.prefill(x_BLD, jnp.take_along_axis(tokens_BL, moved_BL, 1), tail_BL, cache)[1]

    def step(self, x_BD, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One position for the active rows. `row_B`: see `Stack.step`."""
        return self.stack.step(x_BD, tokens_B, self.emptied(cache, start_B & active_B, row_B), active_B, row_B)

    def emptied(self, cache, empty_B, row_B=None):
        """The caches, with nothing seen in the rows `empty_B`."""
        return self.stack.emptied(cache, empty_B, row_B)

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per position, by part."""
        return self.stack.flops(min(length, self.length))
