"""From chunks back to positions: H-Net's smoothing, plain repetition, and addition at the starts only.

Each takes the inner network's output per chunk (already cut to the part's width) and the encoder's output per
position, and returns what the decoder reads.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.dispatch import gather, linear_scan, shift_right, spread
from lmlab.models.layers import parameter

P_MIN = 1e-4  # of a chunk's probability in the smoothing, as in the released code


@jax.custom_vjp
def ste(c):
    """Straight-through estimator: 1 forward, the identity backward (H-Net, eq. 8)."""
    return jnp.ones_like(c)


ste.defvjp(lambda c: (jnp.ones_like(c), None), lambda _, g: (g,))


def to_positions(z_BCD, c, segment_ids_BL):
    """Each position's chunk, [B, C, D] -> [B, L, D]; zeros where the chunk is of another document, which happens if a
    document's first start found no slot."""
    z_BLD = spread(z_BCD, c)
    if c.index_BC.shape[1] == segment_ids_BL.shape[1]:  # a slot for every position: nothing overflows
        return z_BLD
    own_BL = spread(gather(segment_ids_BL, c), c) == segment_ids_BL
    return jnp.where(own_BL[..., None], z_BLD, 0)


class ResidualProjection(nn.Module):
    """Linear map of the encoder's output, float32, starting at zero (H-Net, eq. 3).

    `released_bias`: the bias starts at U(+-1/sqrt(D)), PyTorch's default, which the released code leaves in place,
    probably unintended: the residual then begins as a constant instead of nothing.
    """

    d_model: int
    released_bias: bool = False

    def setup(self):
        zeros, bound = nn.initializers.zeros, self.d_model**-0.5
        bias = (lambda *args: jax.random.uniform(*args, -bound, bound)) if self.released_bias else zeros
        self.kernel = parameter(self, "kernel", zeros, (self.d_model, self.d_model), ("embed", None))
        self.bias = parameter(self, "bias", bias, (self.d_model,), (None,))

    def __call__(self, h):
        """[..., D] -> [..., D] float32."""
        return h.astype(jnp.float32) @ self.kernel + self.bias

    @nn.nowrap
    def flops(self):
        """One projection per position."""
        return 2 * self.d_model**2


class Smooth(nn.Module):
    """H-Net's dechunking (arXiv 2507.07955, eqs. 5-9): an exponential moving average over chunks weighted by
    their probabilities, repeated over each chunk, times the straight-through confidence, plus the residual.

    zbar_j = P_j z_j + (1 - P_j) zbar_{j-1};   y_t = zbar_{chunk(t)} * STE(max(p_t, 1 - p_t)) + R h_t.
    """

    d_model: int
    released_bias: bool = False  # see ResidualProjection

    def setup(self):
        self.residual = ResidualProjection(self.d_model, self.released_bias)

    def __call__(self, z_BCD, h_BLD, routing, c, segment_ids_BL):
        """[B, C, D], [B, L, D] -> [B, L, D] float32. The average starts anew in every segment."""
        p_BC = jnp.clip(gather(routing.probability_BL, c), P_MIN, 1 - P_MIN)
        segment_ids_BC = gather(segment_ids_BL, c)
        first_BC = segment_ids_BC != shift_right(segment_ids_BC, 0)
        z_BCD = z_BCD.astype(jnp.float32)
        zbar_BCD = linear_scan(jnp.where(first_BC, 0.0, 1 - p_BC), p_BC[..., None] * z_BCD)
        confidence_BL = self.confidence(routing.probability_BL)
        return to_positions(zbar_BCD, c, segment_ids_BL) * confidence_BL[..., None] + self.residual(h_BLD)

    @staticmethod
    def confidence(p_BL):
        """The straight-through confidence in each decision: 1, with the gradient of max(p, 1 - p)."""
        return ste(jnp.maximum(p_BL, 1 - p_BL))

    def step(self, z_BD, h_BD, start_B, p_B, last_BD):
        """One position; `z_BD` counts only where `start_B`. Returns (y_BD, last_BD)."""
        P_B = jnp.where(start_B, jnp.clip(p_B, P_MIN, 1 - P_MIN), 0.0)[:, None]
        last_BD = P_B * jnp.where(start_B[:, None], z_BD, 0.0) + (1 - P_B) * last_BD
        return last_BD + self.residual(h_BD), last_BD

    @nn.nowrap
    def init_cache(self, batch):
        """zbar of the last chunk."""
        return jnp.zeros((batch, self.d_model))

    def cache_after(self, z_BCD, routing, c, valid_BL):
        """Cache behind right-padded prompts."""
        p_BC = jnp.clip(gather(routing.probability_BL, c), P_MIN, 1 - P_MIN) * c.valid_BC
        return linear_scan(1 - p_BC, p_BC[..., None] * z_BCD.astype(jnp.float32))[:, -1]

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """Per position."""
        return 2 * self.d_model**2


class Unconfident(Smooth):
    """`Smooth` without the straight-through factor: the router learns from the average alone."""

    @staticmethod
    def confidence(p_BL):
        """1, without a gradient."""
        return jnp.ones_like(p_BL)


def last_chunk(z_BCD, c):
    """Each row's last chunk, [B, C, D] -> [B, D] float32."""
    last_B = jnp.maximum(jnp.sum(c.valid_BC, axis=1) - 1, 0)
    return jnp.take_along_axis(z_BCD, last_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)


class Repeat(nn.Module):
    """Each chunk repeated over its positions, plus H-Net's residual: for chunks that a rule drew."""

    d_model: int

    def setup(self):
        self.residual = ResidualProjection(self.d_model)

    def __call__(self, z_BCD, h_BLD, routing, c, segment_ids_BL):
        """[B, C, D], [B, L, D] -> [B, L, D] float32."""
        return to_positions(z_BCD.astype(jnp.float32), c, segment_ids_BL) + self.residual(h_BLD)

    def step(self, z_BD, h_BD, start_B, p_B, last_BD):
        """One position; returns (y_BD, last_BD)."""
        last_BD = jnp.where(start_B[:, None], z_BD, last_BD)
        return last_BD + self.residual(h_BD), last_BD

    @nn.nowrap
    def init_cache(self, batch):
        """The last chunk."""
        return jnp.zeros((batch, self.d_model))

    def cache_after(self, z_BCD, routing, c, valid_BL):
        """Cache behind right-padded prompts."""
        return last_chunk(z_BCD, c)

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """Per position."""
        return 2 * self.d_model**2


class Unsmoothed(Repeat):
    """`Smooth` without the average: each chunk repeated, times the straight-through confidence, plus the residual."""

    def __call__(self, z_BCD, h_BLD, routing, c, segment_ids_BL):
        """[B, C, D], [B, L, D] -> [B, L, D] float32."""
        confidence_BL = Smooth.confidence(routing.probability_BL)
        z_BLD = to_positions(z_BCD.astype(jnp.float32), c, segment_ids_BL)
        return z_BLD * confidence_BL[..., None] + self.residual(h_BLD)


class AddAtStarts(nn.Module):
    """The chunk's vector added where the chunk starts, nowhere else (SpaceByte, arXiv 2404.14408)."""

    d_model: int

    def __call__(self, z_BCD, h_BLD, routing, c, segment_ids_BL):
        """[B, C, D], [B, L, D] -> [B, L, D] float32."""
        at_start = jnp.where(c.kept_BL[..., None], to_positions(z_BCD.astype(jnp.float32), c, segment_ids_BL), 0.0)
        return h_BLD.astype(jnp.float32) + at_start

    @nn.nowrap
    def init_cache(self, batch):
        """Nothing to remember."""
        return ()

    def cache_after(self, z_BCD, routing, c, valid_BL):
        """Cache behind right-padded prompts."""
        return ()

    def step(self, z_BD, h_BD, start_B, p_B, cache):
        """One position; returns (y_BD, cache)."""
        return h_BD + jnp.where(start_B[:, None], z_BD, 0.0), cache

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """One addition per position."""
        return self.d_model


class Add(AddAtStarts):
    """The chunk's vector added at every position of the chunk (dynamic token pooling, arXiv 2211.09761, section 2)."""

    def __call__(self, z_BCD, h_BLD, routing, c, segment_ids_BL):
        """[B, C, D], [B, L, D] -> [B, L, D] float32."""
        return h_BLD.astype(jnp.float32) + to_positions(z_BCD.astype(jnp.float32), c, segment_ids_BL)

    def step(self, z_BD, h_BD, start_B, p_B, last_BD):
        """One position; returns (y_BD, last_BD)."""
        last_BD = jnp.where(start_B[:, None], z_BD, last_BD)
        return h_BD + last_BD, last_BD

    @nn.nowrap
    def init_cache(self, batch):
        """The last chunk."""
        return jnp.zeros((batch, self.d_model))

    def cache_after(self, z_BCD, routing, c, valid_BL):
        """Cache behind right-padded prompts."""
        return last_chunk(z_BCD, c)
