"""Chunks where the next byte is hard to predict: BLT's entropy patches (arXiv 2412.09871, section 2.3)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.kernels.dispatch import shift_right
from lmlab.models.cache import put, take
from lmlab.models.chunkers import segment_starts
from lmlab.models.language_model import LanguageModel
from lmlab.models.layers import parameter

# Nats that the threshold moves at a learning rate of 1: Adam moves a parameter by about that rate a step. Entropies of a
# young model fall fast: in 120 steps at 3e-3 the threshold lags, overshoots once, and settles by the 100th.
SCALE = 30.0


def entropy(logits):
    """Of the softmax, in nats: [..., V] -> [...] float32."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def surprising(H, before, threshold, rise):
    """Whether the byte behind a position of entropy H starts a patch; `before`: entropy of the position before."""
    above = H > threshold
    return above if rise is None else above & (H - before > rise)


def entropy_starts(H_BL, segment_ids_BL, threshold, rise=None, longest=None):
    """Where chunks start, [B, L] bool: at the first byte of a document, which is a patch of its own, and at each last
    byte of a patch; a patch ends where H > threshold (nats) and, if `rise` is given, H is higher by that than at the
    byte before (the approximate monotonic constraint), or after `longest` bytes."""
    valid_BL = segment_ids_BL > 0
    start_BL = surprising(H_BL, shift_right(H_BL, 0.0), threshold, rise) | segment_starts(segment_ids_BL)
    if longest is not None:
        position_L = jnp.arange(H_BL.shape[1])
        since_BL = position_L - jax.lax.cummax(jnp.where(start_BL, position_L, 0), axis=1)
        start_BL |= since_BL % longest == 0
    return start_BL & valid_BL


class EntropyMarker(nn.Module):
    """Level 1 at the last byte of each patch, for `Marked`, by the entropies of a small language model of its own.

    The model learns beside the rest from its own next-byte loss, with `weight`: Adam's steps hardly depend on it, but
    the clipped norm does, in which it should not count for much. No gradient passes between the two. `threshold` None:
    learnt too, so that one in `positions_per_chunk` entropies lies above it, by the loss whose minimum is that
    quantile; the paper sets it once, for a finished model, to the same end. `rise` and `longest`: see `entropy_starts`.
    """

    model: LanguageModel
    positions_per_chunk: float = 4.5
    threshold: float | None = None
    rise: float | None = None
    longest: int | None = None
    weight: float = 0.1

    def setup(self):
        if self.threshold is None:
            top = math.log(self.model.vocab_size) / SCALE
            self.level = parameter(self, "threshold", nn.initializers.constant(top), (1,), (None,))

    def _threshold(self):
        return self.threshold if self.threshold is not None else SCALE * self.level.astype(jnp.float32)[0]

    def _loss(self, logits_BLV, H_BL, tokens_BL, segment_ids_BL):
        same_BL = (segment_ids_BL[:, :-1] == segment_ids_BL[:, 1:]) & (segment_ids_BL[:, 1:] > 0)
        nats_BL = softmax_cross_entropy(logits_BLV[:, :-1], tokens_BL[:, 1:])
        loss = jnp.sum(nats_BL * same_BL) / jnp.maximum(jnp.sum(same_BL), 1)
        if self.threshold is None:
            over_BL, q = H_BL - self._threshold(), 1 - 1 / self.positions_per_chunk
            pinball_BL = jnp.maximum(q * over_BL, (q - 1) * over_BL) * (segment_ids_BL > 0)
            loss += jnp.sum(pinball_BL) / jnp.maximum(jnp.sum(segment_ids_BL > 0), 1)
        return self.weight * loss

    def _levels(self, H_BL, segment_ids_BL):
        starts_BL = entropy_starts(H_BL, segment_ids_BL, self._threshold(), self.rise, self.longest)
        return starts_BL.astype(jnp.int32)

    def __call__(self, tokens_BL, segment_ids_BL):
        """(level_BL, weighted auxiliary loss)."""
        logits_BLV = self.model(tokens_BL, segment_ids_BL).logits
        H_BL = jax.lax.stop_gradient(entropy(logits_BLV))
        return self._levels(H_BL, segment_ids_BL), self._loss(logits_BLV, H_BL, tokens_BL, segment_ids_BL)

    @nn.nowrap
    def init_cache(self, batch, length):
        """The model's; the last entropy; bytes since the last start, -1 before the first."""
        rest = {"entropy": jnp.zeros(batch), "since": jnp.full(batch, -1)}
        return {"model": self.model.init_cache(batch, length), "rest": rest}

    def prefill(self, tokens_BL, valid_BL, cache):
        """(level_BL, cache behind right-padded prompts)."""
        logits_BLV, model = self.model.prefill(tokens_BL, valid_BL, cache["model"])
        H_BL, count_B = entropy(logits_BLV), jnp.sum(valid_BL, axis=1)
        level_BL = self._levels(H_BL, valid_BL.astype(jnp.int32))
        last_B = jnp.max(jnp.where(level_BL > 0, jnp.arange(tokens_BL.shape[1]), -1), axis=1)
        H_B = jnp.take_along_axis(H_BL, jnp.maximum(count_B - 1, 0)[:, None], axis=1)[:, 0]
        since_B = jnp.where(count_B > 0, count_B - 1 - last_B, -1)
        return level_BL, {"model": model, "rest": {"entropy": H_B, "since": since_B}}

    def step(self, tokens_B, cache, active_B, row_B=None):
        """(level_B, cache)."""
        logits_BV, model = self.model.step(tokens_B, cache["model"], active_B, row_B)
        H_B, old = entropy(logits_BV), take(cache["rest"], row_B)
        since_B = old["since"] + 1
        start_B = surprising(H_B, old["entropy"], self._threshold(), self.rise) | (old["since"] < 0)
        if self.longest is not None:
            start_B |= since_B % self.longest == 0
        rest = {"entropy": H_B, "since": jnp.where(start_B, 0, since_B)}
        return start_B.astype(jnp.int32), {"model": model, "rest": put(cache["rest"], rest, active_B, row_B)}

    @nn.nowrap
    def flops(self, length):
        """The language model's."""
        return self.model.flops(length)
