"""Learned absolute positions, added to what a stack reads."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.dispatch import shift_right
from lmlab.models.cache import put, take
from lmlab.models.layers import normal, parameter


def offsets(first_BL):
    """Positions since the last True of `first_BL`, 0 there: [B, L] int32."""
    position_L = jnp.arange(first_BL.shape[1])
    return position_L - jax.lax.cummax(jnp.where(first_BL, position_L, 0), axis=1)


class LearnedPositions(nn.Module):
    """A stack that reads x_t + P[t], with the interface of a stack; t counts from the start of its document or chunk.

    `length`: rows of P; positions beyond read the last.
    """

    stack: nn.Module
    length: int

    @property
    def d_model(self):
        """Width."""
        return self.stack.d_model

    def setup(self):
        self.table = parameter(self, "table", normal(1.0), (self.length, self.d_model), (None, "embed"))

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """Returns (y_BLD, ())."""
        at_BL = offsets(segment_ids_BL != shift_right(segment_ids_BL, 0))
        x_BLD = x_BLD + self.table[jnp.minimum(at_BL, self.length - 1)]
        return self.stack(x_BLD, tokens_BL, segment_ids_BL)

    @nn.nowrap
    def init_cache(self, batch, length):
        """The stack's, and the position of what comes next."""
        return {"position": jnp.zeros(batch, jnp.int32), "stack": self.stack.init_cache(batch, length)}

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache, start_BL=None):
        """Forward over right-padded prompts, with the caches after each."""
        at_L = jnp.minimum(jnp.arange(x_BLD.shape[1]), self.length - 1)
        y_BLD, stack = self.stack.prefill(x_BLD + self.table[at_L], tokens_BL, valid_BL, cache["stack"])
        return y_BLD, {"position": jnp.sum(valid_BL, axis=1, dtype=jnp.int32), "stack": stack}

    def step(self, x_BD, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One position for the active rows. `row_B`: see `Stack.step`."""
        at_B = take(cache["position"], row_B)
        x_BD = x_BD + self.table[jnp.minimum(at_B, self.length - 1)]
        y_BD, stack = self.stack.step(x_BD, tokens_B, cache["stack"], active_B, row_B)
        return y_BD, {"position": put(cache["position"], at_B + 1, active_B, row_B), "stack": stack}

    @nn.nowrap
    def can_branch(self):
        """As of the stack."""
        return self.stack.can_branch()

    def branch(self, x_ND, cache, leaves):
        """`Leaves` of the trees in the caches: [N, D] -> ([N, D], caches)."""
        x_ND = x_ND + self.table[jnp.minimum(leaves.position_N, self.length - 1)]
        y_ND, stack = self.stack.branch(x_ND, cache["stack"], leaves)
        return y_ND, cache | {"stack": stack}

    def emptied(self, cache, empty_B, row_B=None):
        """The caches, with nothing seen in the rows `empty_B`."""
        at_B = take(cache["position"], row_B)
        position = put(cache["position"], jnp.zeros_like(at_B), empty_B, row_B)
        return {"position": position, "stack": self.stack.emptied(cache["stack"], empty_B, row_B)}

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per position, by part."""
        return self.stack.flops(length)
