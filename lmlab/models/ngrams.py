"""Hashed n-gram embeddings in front of a backbone (BLT, arXiv 2412.09871, section 3.2.1)."""

import itertools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lmlab.kernels.elementwise import embed
from lmlab.models.cache import put, take
from lmlab.models.layers import normal, parameter

# One per hash function, as in the released code.
PRIMES = (
    1000000007, 5915587277, 1500450271, 3267000013, 5754853343, 4093082899, 9576890767, 3628273133, 2860486313,
    5463458053, 3367900313,
)  # fmt: skip


def ngram_hash(window, function, rows):
    """The released code's hash of n-grams: [..., n] int32 ids below 2^12, oldest first -> [...] int32 below `rows`.

    sum_i id_i prime^i in wrapping signed 64-bit integers, then the non-negative remainder by `rows`, which is at most
    2^24. JAX has no 64-bit integers by default: four limbs of 16 bits stand for one.
    """
    n = window.shape[-1]
    powers = [pow(PRIMES[function], i, 1 << 64) for i in range(n)]
    limbs = np.array([[p >> 16 * k & 0xFFFF for k in range(4)] for p in powers], np.uint32)
    sums = [jnp.sum(window.astype(jnp.uint32) * limbs[:, k], axis=-1, dtype=jnp.uint32) for k in range(4)]
    carry, digits = jnp.uint32(0), []
    for total in sums:
        total = total + carry
        digits.append(total & 0xFFFF)
        carry = total >> 16
    rest = jnp.zeros_like(digits[0])
    for digit in reversed(digits):
        for byte in (digit >> 8, digit & 0xFF):
            rest = (rest * 256 + byte) % rows
    negative = digits[-1] >= 1 << 15  # stands for the sum - 2^64
    return jnp.where(negative, (rest + rows - (1 << 64) % rows) % rows, rest).astype(jnp.int32)


class WithNgrams(nn.Module):
    """A backbone that reads, beside each byte, a hashed embedding of every n-gram that ends there, one table per size
    and hash function. It has the interface of what it wraps, a `Stack`'s.

    An n-gram does not reach into the document before; what is missing is 0. `offset` is added to the bytes, so that no
    byte is 0, as in the released models. The tables start at N(0, 1/D).
    """

    backbone: nn.Module
    sizes: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
    rows: int = 500_002
    functions: int = 1
    offset: int = 4

    @property
    def d_model(self):
        """Width."""
        return self.backbone.d_model

    def setup(self):
        tables, D = self.functions * len(self.sizes), self.d_model
        self.table = parameter(self, "table", normal(D**-0.5), (tables * self.rows, D), ("vocab", "embed"))

    def _add(self, x, window):
        """`window`: the last ids, oldest first, [..., longest n]."""
        longest = window.shape[-1]
        for i, (f, n) in enumerate(itertools.product(range(self.functions), self.sizes)):
            x = x + embed(self.table, i * self.rows + ngram_hash(window[..., longest - n :], f, self.rows))
        return x

    def _windows(self, tokens_BL, segment_ids_BL):
        longest, L = max(self.sizes), tokens_BL.shape[1]
        pad = lambda x: jnp.pad(x, ((0, 0), (longest - 1, 0)))  # noqa: E731
        ids, segments = pad(tokens_BL + self.offset), pad(segment_ids_BL)
        back = range(longest)
        same = [segments[:, i : i + L] == segment_ids_BL for i in back]
        return jnp.stack([jnp.where(same[i], ids[:, i : i + L], 0) for i in back], axis=-1)

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """The backbone's (y_BLD, stages)."""
        x_BLD = self._add(x_BLD, self._windows(tokens_BL, segment_ids_BL))
        return self.backbone(x_BLD, tokens_BL, segment_ids_BL, nominal, start_BL)

    @nn.nowrap
    def init_cache(self, batch, length):
        """The backbone's, and the last ids."""
        window_BN = jnp.zeros((batch, max(self.sizes)), jnp.int32)
        return {"backbone": self.backbone.init_cache(batch, length), "window": window_BN}

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache, start_BL=None):
        """Forward over right-padded prompts, with the caches after each."""
        window_BLN = self._windows(tokens_BL, valid_BL.astype(jnp.int32))
        x_BLD = self._add(x_BLD, window_BLN)
        y_BLD, backbone = self.backbone.prefill(x_BLD, tokens_BL, valid_BL, cache["backbone"], start_BL)
        count_B = jnp.sum(valid_BL, axis=1)
        last_BN = jnp.take_along_axis(window_BLN, jnp.maximum(count_B - 1, 0)[:, None, None], axis=1)[:, 0]
        return y_BLD, {"backbone": backbone, "window": jnp.where(count_B[:, None] > 0, last_BN, 0)}

    def step(self, x_BD, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One position for the active rows. `row_B`: see `Stack.step`."""
        old_BN = take(cache["window"], row_B)
        window_BN = jnp.concatenate([old_BN[:, 1:], tokens_B[:, None] + self.offset], axis=1)
        x_BD = self._add(x_BD, window_BN)
        y_BD, backbone = self.backbone.step(x_BD, tokens_B, cache["backbone"], active_B, row_B, start_B)
        return y_BD, {"backbone": backbone, "window": put(cache["window"], window_BN, active_B, row_B)}

    @nn.nowrap
    def flops(self, length, ratios=()):
        """The backbone's; looking up and adding is not counted."""
        return self.backbone.flops(length, ratios)
