"""Dynamic token pooling's segments (Nawrot et al. 2023, arXiv 2211.09761, section 3): mean pooling behind a null group.

A boundary ends a segment, its own position included, and the segment's mean serves the positions from there on. What
lies before the first boundary of a document reads the null group, a learned vector. The first position of a document
starts a chunk as everywhere here: that chunk is the null group, and its position belongs to the segment that follows.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.compaction import span_sums
from lmlab.kernels.dispatch import gather
from lmlab.kernels.scan import linear_scan
from lmlab.kernels.dispatch import shift_right
from lmlab.models.chunkers import segment_starts
from lmlab.models.layers import LayerNorm, normal, parameter
from lmlab.models.pool import Mean, tail


class SegmentMean(Mean):
    """The mean of the first `d_model` channels over each segment, normed. The boundaries carry no gradient."""

    def setup(self):
        self.null = parameter(self, "null", normal(1.0), (self.d_model,), (None,))
        self.norm = LayerNorm(self.d_model)

    @staticmethod
    def weights(routing, segment_ids_BL):
        """Of each position in its segment's mean, [B, L]: 1."""
        return jnp.ones(routing.start_BL.shape)

    def __call__(self, h_BLD, routing, c, segment_ids_BL):
        """[B, L, ..] -> [B, C, D]."""
        w_BL1 = self.weights(routing, segment_ids_BL)[..., None]
        h_BLD = h_BLD[..., : self.d_model].astype(jnp.float32)
        sums_BCD = span_sums(jnp.concatenate([w_BL1 * h_BLD, w_BL1], axis=-1), c, segment_ids_BL)
        first_BC1 = gather(segment_starts(segment_ids_BL), c)[..., None]
        of_first_BCD = jnp.pad(jnp.where(first_BC1, sums_BCD, 0), ((0, 0), (1, 0), (0, 0)))[:, :-1]
        sums_BCD += jnp.where(first_BC1, 0, of_first_BCD)
        mean_BCD = sums_BCD[..., :-1] / jnp.where(sums_BCD[..., -1:] > 0, sums_BCD[..., -1:], 1)
        return self.norm(jnp.where(first_BC1, self.null.astype(jnp.float32), mean_BCD))

    @nn.nowrap
    def init_cache(self, batch):
        """Sum and number of the positions behind the last boundary, and whether there was a position."""
        return super().init_cache(batch) | {"seen": jnp.zeros(batch, bool)}

    def cache_after(self, h_BLD, start_BL, valid_BL):
        """Cache behind right-padded prompts."""
        tail_BL1 = tail(start_BL.at[:, 0].set(False), valid_BL)[..., None].astype(jnp.float32)
        sums = jnp.sum(tail_BL1 * h_BLD[..., : self.d_model], axis=1)
        return {"sum": sums, "count": jnp.sum(tail_BL1, axis=1), "seen": valid_BL[:, 0]}

    def step(self, h_BD, start_B, cache):
        """(what a chunk that starts here would read [B, D], cache)."""
        total, count = cache["sum"] + h_BD[..., : self.d_model], cache["count"] + 1
        seen_B1 = cache["seen"][:, None]
        again_B1 = jnp.where(start_B[:, None] & seen_B1, 0.0, 1.0)
        z_BD = self.norm(jnp.where(seen_B1, total / count, self.null.astype(jnp.float32)))
        return z_BD, {"sum": total * again_B1, "count": count * again_B1, "seen": jnp.ones_like(cache["seen"])}

    @nn.nowrap
    def extend(self, h_BND, count_B, cache):
        """Cache behind the first `count_B` of N further positions, none of which is a boundary."""
        w_BN1 = (jnp.arange(h_BND.shape[1]) < count_B[:, None])[..., None]
        total = cache["sum"] + jnp.sum(jnp.where(w_BN1, h_BND[..., : self.d_model], 0), axis=1)
        return {"sum": total, "count": cache["count"] + count_B[:, None], "seen": cache["seen"] | (count_B > 0)}


class StraightThroughMean(SegmentMean):
    """`SegmentMean` through which boundaries learn: forward 1, a position's weight has the gradient of the number of
    boundaries before it in its segment, as the original's soft assignment has at the segment that is chosen. (Those before
    the segment move all its weights alike, and so not its mean.)"""

    @staticmethod
    def weights(routing, segment_ids_BL):
        """1, with a gradient."""
        first_BL = segment_starts(segment_ids_BL)
        anew_BL = first_BL | shift_right(routing.start_BL & ~first_BL, False)
        # A recurrence that resets, not a difference of sums: rounding must not carry a gradient to another document.
        p_BL = jnp.where(anew_BL, 0.0, shift_right(routing.probability_BL, 0))
        before_BL1 = linear_scan(1.0 - anew_BL, p_BL[..., None])
        return (1 + before_BL1 - jax.lax.stop_gradient(before_BL1))[..., 0]


class PieceMean(StraightThroughMean):
    """`StraightThroughMean` for boundaries that are the first positions of pieces, tag B of a tagger (Islam et al. 2022,
    arXiv 2204.10815): a chunk reads the mean of the piece that its start ends, the start itself left out."""

    @staticmethod
    def weights(routing, segment_ids_BL):
        """As there, of the position before; nothing is before the first of a document."""
        w_BL = StraightThroughMean.weights(routing, segment_ids_BL)
        return jnp.where(segment_starts(segment_ids_BL), 0.0, w_BL)

    def __call__(self, h_BLD, routing, c, segment_ids_BL):
        """[B, L, ..] -> [B, C, D]."""
        return super().__call__(shift_right(h_BLD, 0), routing, c, segment_ids_BL)

    def cache_after(self, h_BLD, start_BL, valid_BL):
        """Cache behind right-padded prompts: what follows the last start, and that start."""
        next_BL = jnp.pad(start_BL[:, 1:], ((0, 0), (0, 1)))
        tail_BL1 = tail(next_BL, valid_BL)[..., None].astype(jnp.float32)
        sums = jnp.sum(tail_BL1 * h_BLD[..., : self.d_model], axis=1)
        return {"sum": sums, "count": jnp.sum(tail_BL1, axis=1), "seen": valid_BL[:, 0]}

    def step(self, h_BD, start_B, cache):
        """(what a chunk that starts here would read [B, D], cache)."""
        seen_B1 = cache["seen"][:, None]
        mean_BD = cache["sum"] / jnp.maximum(cache["count"], 1)
        z_BD = self.norm(jnp.where(seen_B1, mean_BD, self.null.astype(jnp.float32)))
        kept_B1 = jnp.where(start_B[:, None] & seen_B1, 0.0, 1.0)
        total = kept_B1 * cache["sum"] + h_BD[..., : self.d_model]
        return z_BD, {"sum": total, "count": kept_B1 * cache["count"] + 1, "seen": jnp.ones_like(cache["seen"])}
