"""From positions to chunks: selection of the first position (H-Net), or a summary of the span that ends there.

The span of a chunk is what follows the previous chunk's start, up to and including its own start, within one
document: all that is known when the inner network runs for it, so that no pool looks ahead.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.compaction import span_sums
from lmlab.kernels.dispatch import gather
from lmlab.kernels.elementwise import linear
from lmlab.models.layers import normal, parameter


class Select(nn.Module):
    """The hidden state at the chunk's start (H-Net, arXiv 2507.07955, section 2.2)."""

    d_model: int

    def __call__(self, h_BLD, routing, c, segment_ids_BL):
        """[B, L, D] -> [B, C, D], zeros in empty slots."""
        return gather(h_BLD, c)

    @nn.nowrap
    def init_cache(self, batch):
        """Nothing to remember."""
        return ()

    def cache_after(self, h_BLD, start_BL, valid_BL):
        """Cache behind right-padded prompts."""
        return ()

    def step(self, h_BD, start_B, cache):
        """(what a chunk that starts here would read [B, D], cache)."""
        return h_BD, cache

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """No arithmetic worth counting."""
        return 0


def tail(start_BL, valid_BL):
    """Positions behind each row's last start: the span that the next chunk will have, so far."""
    later_BL = jnp.flip(jax.lax.cummax(jnp.flip(start_BL, 1).astype(jnp.int32), axis=1), 1) > 0  # a start here or later
    return valid_BL & ~later_BL


class Mean(nn.Module):
    """The mean over the chunk's span."""

    d_model: int

    def __call__(self, h_BLD, routing, c, segment_ids_BL):
        """[B, L, D] -> [B, C, D], zeros in empty slots."""
        h_BLD = h_BLD.astype(jnp.float32)
        ones_BL1 = jnp.ones((*h_BLD.shape[:2], 1))
        sums_BCD = span_sums(jnp.concatenate([h_BLD, ones_BL1], axis=-1), c, segment_ids_BL)
        return sums_BCD[..., :-1] / jnp.maximum(sums_BCD[..., -1:], 1)

    @nn.nowrap
    def init_cache(self, batch):
        """Sum and number of the positions behind the last start."""
        return {"sum": jnp.zeros((batch, self.d_model)), "count": jnp.zeros((batch, 1))}

    def cache_after(self, h_BLD, start_BL, valid_BL):
        """Cache behind right-padded prompts."""
        tail_BL1 = tail(start_BL, valid_BL)[..., None].astype(jnp.float32)
        return {"sum": jnp.sum(tail_BL1 * h_BLD, axis=1), "count": jnp.sum(tail_BL1, axis=1)}

    def step(self, h_BD, start_B, cache):
        """(what a chunk that starts here would read [B, D], cache)."""
        total, count = cache["sum"] + h_BD, cache["count"] + 1
        again_B1 = jnp.where(start_B, 0.0, 1.0)[:, None]
        return total / count, {"sum": total * again_B1, "count": count * again_B1}

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """One addition per channel and position."""
        return self.d_model


class CrossAttention(nn.Module):
    """Attention of learned queries, one per head, over the chunk's span, and an output projection.

    Weights are exp(s) over the span's sum with s = 10 tanh(q.k / (10 sqrt(K))): bounded scores need no running
    maximum, so that the span's sums are plain sums.
    """

    d_model: int
    n_heads: int = 4

    def setup(self):
        D, H = self.d_model, self.n_heads
        self.query = parameter(self, "query", normal(1.0), (H, D // H), ("heads", None))
        self.wkv = parameter(self, "wkv", normal(0.02), (D, 2 * D), ("embed", "heads"))
        self.wo = parameter(self, "wo", normal(D**-0.5), (D, D), ("heads", "embed"))

    def _terms(self, h):
        """exp(s) v and exp(s) per position: [..., D + H] float32."""
        H, K = self.query.shape
        k, v = jnp.split(linear(h.astype(self.wkv.dtype), self.wkv), 2, axis=-1)
        k, v = (x.reshape(*x.shape[:-1], H, K).astype(jnp.float32) for x in (k, v))
        s = jnp.sum(k * self.query.astype(jnp.float32), axis=-1) * K**-0.5
        e = jnp.exp(10 * jnp.tanh(s / 10))
        return jnp.concatenate([(e[..., None] * v).reshape(*e.shape[:-1], H * K), e], axis=-1)

    def _read(self, sums):
        H, K = self.query.shape
        values, weights = jnp.split(sums, [H * K], axis=-1)
        o = values.reshape(*values.shape[:-1], H, K) / jnp.maximum(weights, 1e-9)[..., None]
        return linear(o.reshape(values.shape).astype(self.wo.dtype), self.wo)

    def __call__(self, h_BLD, routing, c, segment_ids_BL):
        """[B, L, D] -> [B, C, D], zeros in empty slots."""
        return self._read(span_sums(self._terms(h_BLD), c, segment_ids_BL))

    @nn.nowrap
    def init_cache(self, batch):
        """Sums of the terms of the positions behind the last start."""
        return jnp.zeros((batch, self.d_model + self.n_heads))

    def cache_after(self, h_BLD, start_BL, valid_BL):
        """Cache behind right-padded prompts."""
        return jnp.sum(jnp.where(tail(start_BL, valid_BL)[..., None], self._terms(h_BLD), 0.0), axis=1)

    def step(self, h_BD, start_B, cache):
        """(what a chunk that starts here would read [B, D], cache)."""
        sums = cache + self._terms(h_BD)
        return self._read(sums), jnp.where(start_B[:, None], 0.0, sums)

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """Keys, values, scores and sums per position; the output projection per chunk."""
        return 4 * self.d_model**2 + 4 * self.d_model + 2 * self.d_model**2 / positions_per_chunk
