"""MegaByte's patches (Yu et al. 2023, arXiv 2305.07185, section 2.1), as parts of a hierarchy over `FixedStride(P)`.

Where a row begins with BOS, the chunk that starts at position k P is made of the P bytes up to it, which are the k-th
patch; the first, of BOS alone, is a learned pad vector. A row that continues a document begins with a byte of it,
which nobody reads: the pads of both models stand in its place, and the next patch begins behind it. Two tables embed a
byte: one of the local width, one of E / P channels, P of which make a chunk's vector. Of what the global model makes
of a chunk, its first position reads the first E / P channels, the next the next ones. Where a chunk starts, the local
model reads a learned pad in place of the byte, which the chunk has.
"""

import flax.linen as nn
import jax.numpy as jnp

from lmlab.kernels.dispatch import gather
from lmlab.kernels.elementwise import embed, linear
from lmlab.models.chunkers import segment_starts
from lmlab.models.layers import normal, parameter
from lmlab.models.positions import offsets


class PatchEmbedding(nn.Module):
    """An encoder that hands on its input and, in `d_patch` more channels, the bytes' embeddings for patches."""

    vocab_size: int
    d_model: int
    d_patch: int

    def setup(self):
        self.table = parameter(self, "table", normal(1.0), (self.vocab_size, self.d_patch), ("vocab", "embed"))

    def embed_tokens(self, tokens):
        """[...] -> [..., d_patch]: what patches are made of."""
        return embed(self.table, tokens)

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """Returns ([B, L, D + d_patch], ())."""
        return jnp.concatenate([x_BLD, self.embed_tokens(tokens_BL)], axis=-1).astype(jnp.float32), ()

    @nn.nowrap
    def init_cache(self, batch, length):
        """Nothing to remember."""
        return ()

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache, start_BL=None):
        """Forward over right-padded prompts."""
        return self(x_BLD, tokens_BL, None)

    def step(self, x_BD, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One position."""
        return self(x_BD, tokens_B, None)

    @nn.nowrap
    def flops(self, length, ratios=()):
        """As every embedding is counted: 2 V d."""
        return {"embedding": 2 * self.vocab_size * self.d_patch}


class Patches(nn.Module):
    """The last `d_model` / `patch` channels of the `patch` positions up to a chunk's start, side by side."""

    d_model: int
    patch: int

    def setup(self):
        self.pad = parameter(self, "pad", normal(1.0), (self.d_model,), (None,))

    def __call__(self, h_BLD, routing, c, segment_ids_BL):
        """[B, L, D] -> [B, C, E]; the pad vector for the first chunk of a document."""
        L, G = h_BLD.shape[1], self.d_model // self.patch
        e_BLG = h_BLD[..., -G:].astype(jnp.float32)
        back = [jnp.pad(e_BLG, ((0, 0), (n, 0), (0, 0)))[:, :L] for n in range(self.patch)]
        z_BCE = jnp.concatenate([gather(e_BLG, c) for e_BLG in reversed(back)], axis=-1)
        return jnp.where(gather(segment_starts(segment_ids_BL), c)[..., None], self.pad.astype(jnp.float32), z_BCE)

    @nn.nowrap
    def init_cache(self, batch):
        """The positions before the next one, and whether there was a chunk."""
        tail = jnp.zeros((batch, self.patch - 1, self.d_model // self.patch))
        return {"tail": tail, "seen": jnp.zeros(batch, bool)}

    def cache_after(self, h_BLD, start_BL, valid_BL):
        """Cache behind right-padded prompts."""
        e_BLG = h_BLD[..., -(self.d_model // self.patch) :].astype(jnp.float32)
        at_BT = jnp.sum(valid_BL, axis=1, keepdims=True) + jnp.arange(1 - self.patch, 0)
        tail = jnp.take_along_axis(e_BLG, jnp.maximum(at_BT, 0)[..., None], axis=1)
        return {"tail": jnp.where(at_BT[..., None] >= 0, tail, 0.0), "seen": valid_BL[:, 0]}

    def step(self, h_BD, start_B, cache):
        """(what a chunk that starts here would read [B, E], cache)."""
        e_B1G = h_BD[:, None, -(self.d_model // self.patch) :].astype(jnp.float32)
        last_BPG = jnp.concatenate([cache["tail"], e_B1G], axis=1)
        z_BE = jnp.where(cache["seen"][:, None], last_BPG.reshape(len(h_BD), -1), self.pad.astype(jnp.float32))
        return z_BE, {"tail": last_BPG[:, 1:], "seen": cache["seen"] | start_B}

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """No arithmetic worth counting."""
        return 0


class PatchSlices(nn.Module):
    """Each position's slice of its chunk's vector, mapped to the local width, plus the position's own embedding."""

    d_model: int  # E, of the chunks' vectors
    patch: int
    d_local: int

    def setup(self):
        G = self.d_model // self.patch
        self.kernel = parameter(self, "kernel", normal(G**-0.5), (G, self.d_local), (None, "embed"))
        self.bias = parameter(self, "bias", nn.initializers.zeros, (self.d_local,), (None,))
        self.pad = parameter(self, "pad", normal(1.0), (self.d_local,), (None,))

    def _local(self, slice_, h, start):
        x = jnp.where(start[..., None], self.pad.astype(jnp.float32), h[..., : self.d_local].astype(jnp.float32))
        return x + linear(slice_.astype(self.kernel.dtype), self.kernel).astype(jnp.float32) + self.bias

    def __call__(self, z_BCE, h_BLD, routing, c, segment_ids_BL):
        """[B, C, E], [B, L, ..] -> [B, L, d_local] float32."""
        B, C, E = z_BCE.shape
        slice_BNG = z_BCE.reshape(B, C * self.patch, E // self.patch)
        at_BL = c.slot_BL * self.patch + jnp.minimum(offsets(routing.start_BL), self.patch - 1)
        own_BL = jnp.take_along_axis(gather(segment_ids_BL, c), c.slot_BL, axis=1) == segment_ids_BL
        slice_BLG = jnp.where(own_BL[..., None], jnp.take_along_axis(slice_BNG, at_BL[..., None], axis=1), 0.0)
        return self._local(slice_BLG, h_BLD, routing.start_BL)

    def _moved(self, z_BE, n_B):
        """Vectors whose first slice is the `n_B`-th."""
        G = self.d_model // self.patch
        padded = jnp.pad(z_BE, ((0, 0), (0, self.d_model)))
        at_BE = jnp.minimum(n_B * G, self.d_model)[:, None] + jnp.arange(self.d_model)
        return jnp.take_along_axis(padded, at_BE, axis=1)

    def step(self, z_BE, h_BD, start_B, p_B, last_BE):
        """One position; returns (y_BD, last_BE), the slices that are left with this position's first."""
        last_BE = jnp.where(start_B[:, None], z_BE, self._moved(last_BE, jnp.ones(len(z_BE), jnp.int32)))
        return self._local(last_BE[:, : self.d_model // self.patch], h_BD, start_B), last_BE

    @nn.nowrap
    def init_cache(self, batch):
        """What is left of the last chunk."""
        return jnp.zeros((batch, self.d_model))

    def cache_after(self, z_BCE, routing, c, valid_BL):
        """Each row's last chunk, what was read of it left out."""
        end_B1 = jnp.maximum(jnp.sum(valid_BL, axis=1, keepdims=True) - 1, 0)
        n_B = jnp.take_along_axis(offsets(routing.start_BL), end_B1, axis=1)[:, 0]
        z_BE = jnp.take_along_axis(z_BCE, jnp.take_along_axis(c.slot_BL, end_B1, axis=1)[..., None], axis=1)[:, 0]
        return self._moved(z_BE.astype(jnp.float32), n_B)

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """Per position."""
        return 2 * self.d_model // self.patch * self.d_local
