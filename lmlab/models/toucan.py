"""Toucan: a decoder that writes a whole chunk on its own (Fleshman & Van Durme 2023, arXiv 2311.08620).

The decoder reads the chunk's vector and the bytes' embeddings, nothing of the encoder, and says with each byte
whether it ends the chunk: the layers before and within run once per chunk, over bytes that are already written. The
paper inserts an end-of-token symbol and so a position for every chunk; here the end is one bit beside the byte, so
that a position of the decoder writes both, and the bits per byte of the text alone are the sum over that bit.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.elementwise import linear
from lmlab.models.language_model import LanguageModel
from lmlab.models.layers import normal, parameter
from lmlab.models.unpool import Add


class WithInput(nn.Module):
    """A stack as an encoder that hands on its output and, in as many more channels, its input."""

    stack: nn.Module

    @property
    def d_model(self):
        """Width of either."""
        return self.stack.d_model

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """Returns ([B, L, 2 D], ())."""
        y_BLD, stages = self.stack(x_BLD, tokens_BL, segment_ids_BL)
        return jnp.concatenate([y_BLD, x_BLD.astype(y_BLD.dtype)], axis=-1), stages

    @nn.nowrap
    def init_cache(self, batch, length):
        """The stack's."""
        return self.stack.init_cache(batch, length)

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache, start_BL=None):
        """Forward over right-padded prompts, with the caches after each."""
        y_BLD, cache = self.stack.prefill(x_BLD, tokens_BL, valid_BL, cache)
        return jnp.concatenate([y_BLD, x_BLD.astype(y_BLD.dtype)], axis=-1), cache

    def step(self, x_BD, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One position for the active rows. `row_B`: see `Stack.step`."""
        y_BD, cache = self.stack.step(x_BD, tokens_B, cache, active_B, row_B)
        return jnp.concatenate([y_BD, x_BD.astype(y_BD.dtype)], axis=-1), cache

    def extend(self, x_BND, count_B, cache):
        """Several positions: see `RelativeAttention.extend`."""
        y_BND, cache = self.stack.extend(x_BND, count_B, cache)
        return jnp.concatenate([y_BND, x_BND.astype(y_BND.dtype)], axis=-1), cache

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per position, by part."""
        return self.stack.flops(length)


class AddToInput(Add):
    """The chunk's vector added to what the encoder read, not to what it made of it."""

    def __call__(self, z_BCD, h_BLD, routing, c, segment_ids_BL):
        """[B, C, D], [B, L, 2 D] -> [B, L, D] float32."""
        return super().__call__(z_BCD, h_BLD[..., self.d_model :], routing, c, segment_ids_BL)

    def step(self, z_BD, h_BD, start_B, p_B, last_BD):
        """One position; returns (y_BD, last_BD)."""
        return super().step(z_BD, h_BD[..., self.d_model :], start_B, p_B, last_BD)


class EndingOutput(NamedTuple):
    """`Output`, and what the head says of the ends of chunks."""

    logits: jax.Array  # float32 [B, L, V]: next-byte logits, whether it ends a chunk or not
    stages: tuple
    ends: jax.Array  # float32 [B, L, V]: logit that the next byte, if it is this one, ends its chunk


class Toucan(LanguageModel):
    """A language model whose head writes bytes with their ends: V logits to go on, and V to end the chunk.

    The backbone is a `Hierarchy` of `WithInput` and `AddToInput` over a stack. Besides the steps of every model, which run
    all of it, a chunk may be written by `write` alone, then read by `read`, all but its last byte, which `begin`s the next.
    """

    def setup(self):
        super().setup()
        V, D = self.vocab_size, self.backbone.d_model
        self.end_head = parameter(self, "end_head", normal(0.02), (D, V), ("embed", "vocab"))

    def _joint(self, y):
        """Logits of (byte, goes on) and of (byte, ends)."""
        y = y.astype(self.head.dtype)
        return [linear(y, head).astype(jnp.float32) for head in (self.head, self.end_head)]

    def _logits(self, y):
        return jnp.logaddexp(*self._joint(y))

    def __call__(self, tokens_BL, segment_ids_BL=None):
        """As `LanguageModel`, with the ends."""
        if segment_ids_BL is None:
            segment_ids_BL = jnp.ones_like(tokens_BL)
        y_BLD, stages = self.backbone(self.embed_tokens(tokens_BL), tokens_BL, segment_ids_BL)
        on, end = self._joint(y_BLD)
        return EndingOutput(jnp.logaddexp(on, end), stages, end - on)

    def write(self, tokens_B, cache):
        """The decoder alone, behind a byte that goes on: (logits of going on, logits of ending [B, V], cache)."""
        x_BD = self.embed_tokens(tokens_B)
        every_B = jnp.ones(tokens_B.shape, bool)
        y_BD, decoder = self.backbone.decoder.step(cache["unpool"] + x_BD, tokens_B, cache["decoder"], every_B)
        return *self._joint(y_BD), cache | {"decoder": decoder}

    def read(self, tokens_BN, count_B, cache):
        """The encoder alone, in one pass over the first `count_B` of N bytes, all of which went on: cache."""
        backbone = self.backbone
        h_BND, encoder = backbone.encoder.extend(self.embed_tokens(tokens_BN), count_B, cache["encoder"])
        return cache | {"encoder": encoder, "pool": backbone.pool.extend(h_BND, count_B, cache["pool"])}

    def begin(self, tokens_B, cache):
        """Encoder, inner network and decoder, behind a byte that ended a chunk: as `write`."""
        backbone, every_B = self.backbone, jnp.ones(tokens_B.shape, bool)
        h_BD, encoder = backbone.encoder.step(self.embed_tokens(tokens_B), tokens_B, cache["encoder"], every_B)
        pooled_BD, pool = backbone.pool.step(h_BD, every_B, cache["pool"])
        z_BD, inner = backbone.inner.step(pooled_BD, tokens_B, cache["inner"], every_B)
        y_BD, last_BD = backbone.unpool.step(z_BD, h_BD, every_B, None, cache["unpool"])
        y_BD, decoder = backbone.decoder.step(y_BD, tokens_B, cache["decoder"], every_B)
        new = {"encoder": encoder, "pool": pool, "inner": inner, "unpool": last_BD, "decoder": decoder}
        return *self._joint(y_BD), cache | new

    @nn.nowrap
    def flops(self, length, ratios=()):
        """As `LanguageModel`, the second head included."""
        return super().flops(length, ratios) | {"head": 4 * self.vocab_size * self.backbone.d_model}
