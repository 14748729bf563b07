"""Where chunks start: learned routing (H-Net), fixed stride, and white space (SpaceByte).

A chunker maps hidden states and bytes to `Routing`. The first position of every segment starts a chunk.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.dispatch import shift_right
from lmlab.kernels.elementwise import linear
from lmlab.models.layers import normal, parameter
from lmlab.models.positions import offsets


class Routing(NamedTuple):
    """One decision per position."""

    start_BL: jax.Array  # bool: a chunk starts here (never in padding)
    probability_BL: jax.Array  # float32: p_t; 0 or 1 for rules
    auxiliary: jax.Array  # float32 scalar, weighted, to add to the loss per target


def segment_starts(segment_ids_BL):
    """First position of every document in a packed row; False in padding."""
    return (segment_ids_BL != shift_right(segment_ids_BL, 0)) & (segment_ids_BL > 0)


def _identity(key, shape, dtype):
    return jnp.eye(shape[0], dtype=dtype)


def require_target(target):
    """UserError unless chunks can be of `target` positions on average: the ratio loss divides by target - 1."""
    if not target > 1:
        raise UserError(f"A learned chunk has more than one position on average, not {target}.")


class LearnedChunker(nn.Module):
    """H-Net's routing module (arXiv 2507.07955, eq. 4) with its ratio loss (eq. 10).

    p_t = (1 - cos(W_q h_{t-1}, W_k h_t)) / 2; a chunk starts where p_t > 1/2. The time indices are those of the
    released code (the paper prints q_t and k_{t-1}); both projections start as the identity.
    `target` N: desired bytes (or inner chunks) per chunk. `ratio_weight` is the paper's alpha. `achieved`: positions
    per chunk that FLOPs are planned with, where it is known to differ from N.
    """

    d_model: int
    target: float = 6.0
    ratio_weight: float = 0.03
    achieved: float | None = None

    def __post_init__(self):
        require_target(self.target)
        super().__post_init__()

    @property
    def positions_per_chunk(self):
        """Nominal compression, for counting FLOPs."""
        return self.achieved or self.target

    def setup(self):
        shape, axes = (self.d_model, self.d_model), ("embed", None)
        self.wq = parameter(self, "wq", _identity, shape, axes)
        self.wk = parameter(self, "wk", _identity, shape, axes)

    def _probability(self, previous, current):
        q = linear(previous.astype(self.wq.dtype), self.wq)
        k = linear(current.astype(self.wk.dtype), self.wk)
        q, k = q.astype(jnp.float32), k.astype(jnp.float32)
        # 1 / max(|x|, 1e-12), in a form whose gradient stays finite at x = 0 (empty slots, first positions).
        q_scale, k_scale = [jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1), 1e-24)) for x in (q, k)]
        return jnp.clip((1 - jnp.sum(q * k, -1) * q_scale * k_scale) / 2, 0, 1)

    def __call__(self, h_BLD, tokens_BL, segment_ids_BL):
        """Routing of packed rows."""
        p_BL = self._probability(shift_right(h_BLD, 0), h_BLD)
        return learned_routing(p_BL, segment_ids_BL, self.target, self.ratio_weight)

    @nn.nowrap
    def init_cache(self, batch):
        """The last hidden state, and whether there was one."""
        return {"h": jnp.zeros((batch, self.d_model)), "seen": jnp.zeros(batch, bool)}

    def cache_after(self, h_BLD, tokens_BL, valid_BL):
        """Cache behind right-padded prompts."""
        last_B = jnp.maximum(jnp.sum(valid_BL, axis=1) - 1, 0)
        h_BD = jnp.take_along_axis(h_BLD, last_B[:, None, None], axis=1)[:, 0]
        return {"h": h_BD.astype(jnp.float32), "seen": valid_BL[:, 0]}

    def step(self, h_BD, tokens_B, cache):
        """(start_B, probability_B, cache)."""
        p_B = jnp.where(cache["seen"], self._probability(cache["h"], h_BD), 1.0)
        return p_B > 0.5, p_B, {"h": h_BD, "seen": jnp.ones_like(cache["seen"])}

    @nn.nowrap
    def flops(self):
        """Two projections per position."""
        return 4 * self.d_model**2


class LinearChunker(nn.Module):
    """Routing by one linear map in place of the cosine: p_t = sigmoid(w h_t + b) (H-Net's ablation), same ratio loss.

    The bias starts where p is 1 / N on average; w starts at N(0, 1/D).
    """

    d_model: int
    target: float = 6.0
    ratio_weight: float = 0.03

    def __post_init__(self):
        require_target(self.target)
        super().__post_init__()

    @property
    def positions_per_chunk(self):
        """Nominal compression, for counting FLOPs."""
        return self.target

    def setup(self):
        start = lambda key, shape, dtype: jnp.full(shape, -math.log(self.target - 1), dtype)  # noqa: E731
        self.w = parameter(self, "w", normal(self.d_model**-0.5), (self.d_model, 1), ("embed", None))
        self.bias = parameter(self, "bias", start, (1,), (None,))

    def _probability(self, h):
        return nn.sigmoid(linear(h.astype(self.w.dtype), self.w)[..., 0].astype(jnp.float32) + self.bias)

    def __call__(self, h_BLD, tokens_BL, segment_ids_BL):
        """Routing of packed rows."""
        return learned_routing(self._probability(h_BLD), segment_ids_BL, self.target, self.ratio_weight)

    @nn.nowrap
    def init_cache(self, batch):
        """Whether there was a position."""
        return jnp.zeros(batch, bool)

    def cache_after(self, h_BLD, tokens_BL, valid_BL):
        """Cache behind right-padded prompts."""
        return valid_BL[:, 0]

    def step(self, h_BD, tokens_B, cache):
        """(start_B, probability_B, cache)."""
        p_B = jnp.where(cache, self._probability(h_BD), 1.0)
        return p_B > 0.5, p_B, jnp.ones_like(cache)

    @nn.nowrap
    def flops(self):
        """One dot product per position."""
        return 2 * self.d_model


def learned_routing(p_BL, segment_ids_BL, target, ratio_weight):
    """`Routing` from probabilities: 1 at the first position of a document, 0 in padding, a chunk where p > 1/2, and
    the weighted ratio loss over all positions of the batch."""
    first_BL, valid_BL = segment_starts(segment_ids_BL), segment_ids_BL > 0
    p_BL = jnp.where(first_BL, 1.0, jnp.where(valid_BL, p_BL, 0.0))
    start_BL = p_BL > 0.5
    n = jnp.maximum(jnp.sum(valid_BL), 1)
    ratio = ratio_loss(jnp.sum(start_BL) / n, jnp.sum(p_BL) / n, target)
    return Routing(start_BL, p_BL, ratio_weight * ratio)


def ratio_loss(F, G, N):
    """H-Net's ratio loss (arXiv 2507.07955, eq. 10): 1 at F = G = 1/N. F: share of starts, G: mean p_t.

    Only G carries a gradient.
    """
    return N / (N - 1) * ((N - 1) * F * G + (1 - F) * (1 - G))


def ruled(start_BL):
    """`Routing` of a rule: p is 1 at the starts, 0 elsewhere."""
    return Routing(start_BL, start_BL.astype(jnp.float32), jnp.zeros(()))


class FixedStride(nn.Module):
    """A chunk every `positions_per_chunk` positions of a document (H-Net's "pool" baseline; MegaByte's patches)."""

    positions_per_chunk: int

    def __call__(self, h_BLD, tokens_BL, segment_ids_BL):
        """Routing of packed rows."""
        offset_BL = offsets(segment_starts(segment_ids_BL))
        return ruled((offset_BL % self.positions_per_chunk == 0) & (segment_ids_BL > 0))

    @nn.nowrap
    def init_cache(self, batch):
        """Positions seen so far."""
        return jnp.zeros(batch, jnp.int32)

    def cache_after(self, h_BLD, tokens_BL, valid_BL):
        """Cache behind right-padded prompts."""
        return jnp.sum(valid_BL, axis=1, dtype=jnp.int32)

    def step(self, h_BD, tokens_B, cache):
        """(start_B, probability_B, cache)."""
        start_B = cache % self.positions_per_chunk == 0
        return start_B, start_B.astype(jnp.float32), cache + 1

    @nn.nowrap
    def flops(self):
        """No arithmetic worth counting."""
        return 0


class AtTokens(nn.Module):
    """A chunk wherever the token alone says so: `at` of a subclass, tokens of any shape -> bool."""

    def __call__(self, h_BLD, tokens_BL, segment_ids_BL):
        """Routing of packed rows."""
        return ruled((self.at(tokens_BL) | segment_starts(segment_ids_BL)) & (segment_ids_BL > 0))

    @nn.nowrap
    def init_cache(self, batch):
        """Whether there was a position."""
        return jnp.zeros(batch, bool)

    def cache_after(self, h_BLD, tokens_BL, valid_BL):
        """Cache behind right-padded prompts."""
        return valid_BL[:, 0]

    def step(self, h_BD, tokens_B, cache):
        """(start_B, probability_B, cache)."""
        start_B = self.at(tokens_B) | ~cache
        return start_B, start_B.astype(jnp.float32), jnp.ones_like(cache)

    @nn.nowrap
    def flops(self):
        """No arithmetic worth counting."""
        return 0


def spacelike(byte):
    """SpaceByte's table (arXiv 2404.14408, section 3): not a letter, digit or UTF-8 continuation byte."""
    b = byte
    between = ((b > ord("9")) & (b < ord("A"))) | ((b > ord("Z")) & (b < ord("a"))) | ((b > ord("z")) & (b < 0x80))
    return (b < ord("0")) | between | (b >= 0xC0)


class Whitespace(nn.Module):
    """A chunk at every spacelike byte that follows one which is not (SpaceByte, arXiv 2404.14408).

    `positions_per_chunk` is only the nominal compression that FLOPs are counted with.
    """

    positions_per_chunk: float = 6.0

    def __call__(self, h_BLD, tokens_BL, segment_ids_BL):
        """Routing of packed rows; the rule reads only bytes up to t."""
        space_BL = spacelike(tokens_BL)
        start_BL = space_BL & ~shift_right(space_BL, False)
        return ruled((start_BL | segment_starts(segment_ids_BL)) & (segment_ids_BL > 0))

    @nn.nowrap
    def init_cache(self, batch):
        """Whether the last byte was spacelike, and whether there was one."""
        return {"space": jnp.zeros(batch, bool), "seen": jnp.zeros(batch, bool)}

    def cache_after(self, h_BLD, tokens_BL, valid_BL):
        """Cache behind right-padded prompts."""
        last_B = jnp.maximum(jnp.sum(valid_BL, axis=1) - 1, 0)
        return {"space": spacelike(jnp.take_along_axis(tokens_BL, last_B[:, None], 1)[:, 0]), "seen": valid_BL[:, 0]}

    def step(self, h_BD, tokens_B, cache):
        """(start_B, probability_B, cache)."""
        space_B = spacelike(tokens_B)
        start_B = (space_B & ~cache["space"]) | ~cache["seen"]
        return start_B, start_B.astype(jnp.float32), {"space": space_B, "seen": jnp.ones_like(cache["seen"])}

    @nn.nowrap
    def flops(self):
        """No arithmetic worth counting."""
        return 0
