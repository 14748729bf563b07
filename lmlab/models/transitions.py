"""AU-Net's way down to chunks and up again (arXiv 2506.14761, section 2.1): norms and linear maps between widths, and a
residual. A chunk is read at the last byte of its unit, where it starts in this library's terms."""

import flax.linen as nn
import jax.numpy as jnp

from lmlab.kernels.dispatch import gather
from lmlab.kernels.elementwise import linear
from lmlab.models.layers import RMSNorm, normal, parameter
from lmlab.models.unpool import last_chunk, to_positions

OFFSETS = 16  # positions behind a start that are told apart; then they count from 0 again


class Down(nn.Module):
    """Pool: W norm(h) at the chunk's start, [B, L, D] -> [B, C, E]."""

    d_input: int
    d_model: int

    def setup(self):
        self.norm = RMSNorm(self.d_input)
        shape = (self.d_input, self.d_model)
        self.w = parameter(self, "w", normal(self.d_input**-0.5), shape, ("embed", None))

    def _project(self, h):
        return linear(self.norm(h).astype(self.w.dtype), self.w)

    def __call__(self, h_BLD, routing, c, segment_ids_BL):
        """[B, L, D] -> [B, C, E], zeros in empty slots."""
        return self._project(gather(h_BLD, c))

    @nn.nowrap
    def init_cache(self, batch):
        """Nothing to remember."""
        return ()

    def cache_after(self, h_BLD, start_BL, valid_BL):
        """Cache behind right-padded prompts."""
        return ()

    def step(self, h_BD, start_B, cache):
        """(what a chunk that starts here would read [B, E], cache)."""
        return self._project(h_BD), cache

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """One projection per chunk."""
        return 2 * self.d_input * self.d_model / positions_per_chunk


class Up(nn.Module):
    """Unpool: h + W norm(z) at every position of the chunk, plus what differs by the offset from the chunk's start."""

    d_model: int  # E
    d_output: int  # D

    def setup(self):
        E, D = self.d_model, self.d_output
        self.norm = RMSNorm(E)
        self.w = parameter(self, "w", normal(E**-0.5), (E, D), (None, "embed"))

    def _chunks(self, z):
        """norm(z) in the dtype of the weights, [..., E]."""
        return self.norm(z).astype(self.w.dtype)

    def _by_offset(self, n_BCE):
        """What to add at each offset, [B, C, 16, D] or with axes of 1."""
        raise NotImplementedError

    def __call__(self, z_BCE, h_BLD, routing, c, segment_ids_BL):
        """[B, C, E], [B, L, D] -> [B, L, D] float32."""
        n_BCE = self._chunks(z_BCE)
        B, C, _ = n_BCE.shape
        y_BLD = to_positions(linear(n_BCE, self.w).astype(jnp.float32), c, segment_ids_BL)
        offset_BL = (jnp.arange(h_BLD.shape[1]) - jnp.take_along_axis(c.index_BC, c.slot_BL, axis=1)) % OFFSETS
        extra_BCOD = self._by_offset(n_BCE)
        if extra_BCOD.shape[1] == 1:
            extra_BLD = extra_BCOD[0, 0][offset_BL]
        else:
            flat_BND = extra_BCOD.reshape(B, C * OFFSETS, -1)
            extra_BLD = jnp.take_along_axis(flat_BND, (c.slot_BL * OFFSETS + offset_BL)[..., None], axis=1)
        own_BL1 = to_positions(jnp.ones((B, C, 1)), c, segment_ids_BL)
        return h_BLD.astype(jnp.float32) + y_BLD + own_BL1 * extra_BLD.astype(jnp.float32)

    @nn.nowrap
    def init_cache(self, batch):
        """The last chunk, and the positions since its start."""
        return {"z": jnp.zeros((batch, self.d_model)), "since": jnp.zeros(batch, jnp.int32)}

    def cache_after(self, z_BCE, routing, c, valid_BL):
        """Cache behind right-padded prompts."""
        start_B = last_chunk(c.index_BC[..., None], c)[:, 0].astype(jnp.int32)
        return {"z": last_chunk(z_BCE, c), "since": jnp.sum(valid_BL, axis=1, dtype=jnp.int32) - 1 - start_B}

    def step(self, z_BE, h_BD, start_B, p_B, cache):
        """One position; returns (y_BD, cache)."""
        z_BE = jnp.where(start_B[:, None], z_BE, cache["z"])
        since_B = jnp.where(start_B, 0, cache["since"] + 1)
        n_BE = self._chunks(z_BE)
        extra_BOD = self._by_offset(n_BE[:, None])[:, 0]
        extra_BOD = jnp.broadcast_to(extra_BOD, (len(n_BE), *extra_BOD.shape[1:]))
        extra_BD = jnp.take_along_axis(extra_BOD, (since_B % OFFSETS)[:, None, None], axis=1)[:, 0]
        return h_BD + linear(n_BE, self.w) + extra_BD, {"z": z_BE, "since": since_B}

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """One projection per chunk, and one addition per position."""
        return 2 * self.d_model * self.d_output / positions_per_chunk + self.d_output


class UpByMatrix(Up):
    """A matrix of its own for every offset: the released models' form. All 16 are applied to every chunk, which for
    chunks of five bytes is three times what is used, but keeps every shape static and one product."""

    def setup(self):
        super().setup()
        E, D = self.d_model, self.d_output
        self.offset_w = parameter(self, "offset_w", normal(E**-0.5), (E, OFFSETS * D), (None, "embed"))

    def _by_offset(self, n_BCE):
        return linear(n_BCE, self.offset_w).reshape(*n_BCE.shape[:2], OFFSETS, self.d_output)

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """17 projections per chunk, and two additions per position."""
        return 2 * self.d_model * self.d_output * (1 + OFFSETS) / positions_per_chunk + 2 * self.d_output


class UpByCode(Up):
    """A learned vector for every offset, added to norm(z) before the projection."""

    def setup(self):
        super().setup()
        self.code = parameter(self, "code", normal(1.0), (OFFSETS, self.d_model), (None, None))

    def _by_offset(self, n_BCE):
        return linear(self.code.astype(self.w.dtype), self.w)[None, None]


class UpAtStarts(Up):
    """Only where the chunk starts; nothing elsewhere."""

    def __call__(self, z_BCE, h_BLD, routing, c, segment_ids_BL):
        """[B, C, E], [B, L, D] -> [B, L, D] float32."""
        y_BLD = to_positions(linear(self._chunks(z_BCE), self.w).astype(jnp.float32), c, segment_ids_BL)
        return h_BLD.astype(jnp.float32) + jnp.where(c.kept_BL[..., None], y_BLD, 0)

    @nn.nowrap
    def init_cache(self, batch):
        """Nothing to remember."""
        return ()

    def cache_after(self, z_BCE, routing, c, valid_BL):
        """Cache behind right-padded prompts."""
        return ()

    def step(self, z_BE, h_BD, start_B, p_B, cache):
        """One position; returns (y_BD, cache)."""
        return h_BD + jnp.where(start_B[:, None], linear(self._chunks(z_BE), self.w), 0), cache
