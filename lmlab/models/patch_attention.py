"""BLT's patches: k vectors per chunk, made from its bytes and read by its bytes through cross-attention
(Byte Latent Transformer, arXiv 2412.09871, section 3; Meta's code where the paper is silent).

A patch is a chunk's span: the start of a chunk is the last byte of a patch, so that the patch's vectors are used from
there on, for the bytes of the next one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.compaction import LOWEST, span_max, span_sums, spans, spread
from lmlab.kernels.elementwise import linear
from lmlab.models.layers import RMSNorm, normal, parameter
from lmlab.models.pool import tail
from lmlab.models.stack import Stack, parse_layout
from lmlab.models.unpool import last_chunk, to_positions


class PatchAttention(nn.Module):
    """Pre-norm cross-attention without positions: x + W_o attention(norm(x), norm(source)).

    `doubled_residual`: 2 x in place of x. The released code adds x inside its attention and again where it is called,
    probably unintended; its weights need it.
    """

    d_model: int
    n_heads: int
    doubled_residual: bool = False

    def setup(self):
        D = self.d_model
        self.norm_q, self.norm_kv = RMSNorm(D), RMSNorm(D)
        self.wq = parameter(self, "wq", normal(0.02), (D, D), ("embed", "heads"))
        self.wkv = parameter(self, "wkv", normal(0.02), (D, 2 * D), ("embed", "heads"))
        self.wo = parameter(self, "wo", normal(0.02), (D, D), ("heads", "embed"))

    def _heads(self, x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1)

    def queries(self, x):
        """[..., D] -> [..., H, K], scaled."""
        q = self._heads(linear(self.norm_q(x).astype(self.wq.dtype), self.wq))
        return q * q.shape[-1] ** -0.5

    def keys_values(self, x):
        """[..., D] -> two of [..., H, K]."""
        return map(self._heads, jnp.split(linear(self.norm_kv(x).astype(self.wkv.dtype), self.wkv), 2, axis=-1))

    def residual(self, x, o):
        """x + W_o o for o [..., H, K]."""
        x = 2 * x if self.doubled_residual else x
        return x + linear(o.reshape(x.shape).astype(self.wo.dtype), self.wo)

    def __call__(self, x, source):
        """Each position over its own k vectors: [..., D], [..., k, D] -> [..., D]."""
        q, (k, v) = self.queries(x), self.keys_values(source)
        s = jnp.einsum("...hd,...nhd->...nh", q, k).astype(jnp.float32)
        return self.residual(x, jnp.einsum("...nh,...nhd->...hd", jax.nn.softmax(s, axis=-2).astype(v.dtype), v))


class PatchQueries(nn.Module):
    """Pool: `k` queries per patch, linear in the maximum of its bytes by channel, attend over its bytes.

    Gives the k vectors side by side. A query sees the last `longest` bytes of its patch: what decoding has to keep.
    """

    d_input: int
    n_heads: int
    k: int = 2
    longest: int = 128
    doubled_residual: bool = False

    @property
    def d_model(self):
        """Width of a chunk."""
        return self.k * self.d_input

    def setup(self):
        D = self.d_input
        self.projection = parameter(self, "projection", normal(D**-0.5), (D, self.d_model), ("embed", None))
        self.attention = PatchAttention(D, self.n_heads, self.doubled_residual)

    def _queries(self, top):
        x = linear(top.astype(self.projection.dtype), self.projection).astype(jnp.float32)
        x = x.reshape(*top.shape[:-1], self.k, self.d_input)
        return x, self.attention.queries(x)

    def __call__(self, h_BLD, routing, c, segment_ids_BL):
        """[B, L, D] -> [B, C, k D], zeros in empty slots. Softmax as sums over spans: no patch is ever padded."""
        B, L, _ = h_BLD.shape
        x_BCnD, q_BCnHK = self._queries(span_max(h_BLD, c, segment_ids_BL))
        k_BLHK, v_BLHK = self.attention.keys_values(h_BLD)
        of, inside_BL = spans(c, segment_ids_BL)
        end_BL = jnp.take_along_axis(c.index_BC, of.slot_BL, axis=1)
        near_BL11 = (inside_BL & (end_BL - jnp.arange(L) < self.longest))[..., None, None]
        q_BLnHK = spread(q_BCnHK.reshape(B, -1, self.d_model), of).reshape(B, L, *q_BCnHK.shape[2:])
        s_BLnH = jnp.einsum("blnhk,blhk->blnh", q_BLnHK, k_BLHK).astype(jnp.float32)
        s_BLnH = jnp.where(near_BL11, s_BLnH, LOWEST)
        top_BCM = span_max(jax.lax.stop_gradient(s_BLnH).reshape(B, L, -1), c, segment_ids_BL)
        e_BLnH = jnp.where(near_BL11, jnp.exp(s_BLnH - spread(top_BCM, of).reshape(s_BLnH.shape)), 0)
        terms_BLM = (e_BLnH[..., None] * v_BLHK[:, :, None]).reshape(B, L, -1)
        sums_BCM = span_sums(jnp.concatenate([terms_BLM, e_BLnH.reshape(B, L, -1)], axis=-1), c, segment_ids_BL)
        o_BCM, weight_BCM = jnp.split(sums_BCM, [self.d_model], axis=-1)
        o_BCnHK = o_BCM.reshape(q_BCnHK.shape) / jnp.maximum(weight_BCM.reshape(*q_BCnHK.shape[:-1], 1), 1e-9)
        return self.attention.residual(x_BCnD, o_BCnHK).reshape(B, -1, self.d_model)

    @nn.nowrap
    def init_cache(self, batch):
        """Keys and values of the bytes behind the last start, in a ring; their maximum and number."""
        ring = jnp.zeros((batch, self.longest, self.n_heads, self.d_input // self.n_heads))
        return {"k": ring, "v": ring, "top": jnp.zeros((batch, self.d_input)), "count": jnp.zeros(batch, jnp.int32)}

    def cache_after(self, h_BLD, start_BL, valid_BL):
        """Cache behind right-padded prompts."""
        tail_BL = tail(start_BL, valid_BL)
        count_B1 = jnp.sum(tail_BL, axis=1, keepdims=True)
        slot_S = jnp.arange(self.longest)
        newest_BS = slot_S + (count_B1 - 1 - slot_S) // self.longest * self.longest  # of the tail's in each slot
        first_B1 = jnp.sum(valid_BL, axis=1, keepdims=True) - count_B1
        at_BS11 = jnp.clip(first_B1 + newest_BS, 0, h_BLD.shape[1] - 1)[..., None, None]
        k_BSHK, v_BSHK = (
            jnp.where((slot_S < count_B1)[..., None, None], jnp.take_along_axis(x, at_BS11, axis=1), 0)
            for x in self.attention.keys_values(h_BLD)
        )
        top_BD = jnp.max(jnp.where(tail_BL[..., None], h_BLD, LOWEST), axis=1)
        return {"k": k_BSHK, "v": v_BSHK, "top": top_BD, "count": count_B1[:, 0]}

    def step(self, h_BD, start_B, cache):
        """(what a chunk that starts here would read [B, k D], cache)."""
        count_B, rows = cache["count"], jnp.arange(len(h_BD))
        top_BD = jnp.where(count_B[:, None] > 0, jnp.maximum(cache["top"], h_BD), h_BD)
        x_BnD, q_BnHK = self._queries(top_BD)
        k_BSHK, v_BSHK = (
            cache[name].at[rows, count_B % self.longest].set(x.astype(jnp.float32))
            for name, x in zip("kv", self.attention.keys_values(h_BD), strict=True)
        )
        s_BnHS = jnp.einsum("bnhk,bshk->bnhs", q_BnHK, k_BSHK).astype(jnp.float32)
        seen_BS = jnp.arange(self.longest) <= count_B[:, None]
        p_BnHS = jax.nn.softmax(jnp.where(seen_BS[:, None, None], s_BnHS, LOWEST), axis=-1)
        y_BnD = self.attention.residual(x_BnD, jnp.einsum("bnhs,bshk->bnhk", p_BnHS, v_BSHK))
        count_B = jnp.where(start_B, 0, count_B + 1)
        return y_BnD.reshape(len(h_BD), -1), {"k": k_BSHK, "v": v_BSHK, "top": top_BD, "count": count_B}

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """Keys, values, scores and sums per position; first queries, queries and outputs per chunk."""
        D, k = self.d_input, self.k
        return 4 * D**2 + 4 * k * D + 6 * k * D**2 / positions_per_chunk


class PatchVectors(nn.Module):
    """Unpool: each position's hidden state and, behind it, the k vectors of its patch, linear in the chunk's: [B, L, D]
    and [B, C, E] -> [B, L, (1 + k) D], for a `PatchDecoder`."""

    d_model: int  # E
    d_output: int  # D
    k: int = 2

    def setup(self):
        E, width = self.d_model, self.k * self.d_output
        self.projection = parameter(self, "projection", normal(E**-0.5), (E, width), ("embed", None))

    def _vectors(self, z):
        return linear(z.astype(self.projection.dtype), self.projection).astype(jnp.float32)

    def __call__(self, z_BCE, h_BLD, routing, c, segment_ids_BL):
        """[B, C, E], [B, L, D] -> [B, L, (1 + k) D] float32."""
        return jnp.concatenate([h_BLD, to_positions(self._vectors(z_BCE), c, segment_ids_BL)], axis=-1)

    @nn.nowrap
    def init_cache(self, batch):
        """The last chunk's vectors."""
        return jnp.zeros((batch, self.k * self.d_output))

    def cache_after(self, z_BCE, routing, c, valid_BL):
        """Cache behind right-padded prompts."""
        return last_chunk(self._vectors(z_BCE), c)

    def step(self, z_BE, h_BD, start_B, p_B, last_BM):
        """One position; returns (y_BD, cache)."""
        last_BM = jnp.where(start_B[:, None], self._vectors(z_BE), last_BM)
        return jnp.concatenate([h_BD, last_BM], axis=-1), last_BM

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """The projection, once per chunk."""
        return 2 * self.d_model * self.k * self.d_output / positions_per_chunk


class PatchDecoder(Stack):
    """A stack with a `PatchAttention` to the position's own patch before every block; it reads what `PatchVectors`
    gives.

    Keys and values of a patch's vectors are computed at each of its positions, as `flops` counts them: once per patch
    they would be fewer, but those of every layer would have to be spread over the positions.
    """

    k: int = 2
    doubled_residual: bool = False

    def setup(self):
        super().setup()
        self.cross = [PatchAttention(self.d_model, self.n_heads, self.doubled_residual) for _ in self.layers]

    def _grouped(self):
        return self.layers  # with attention between them

    def _through(self, y, run, layers, caches):
        x, source = jnp.split(y, [self.d_model], axis=-1)
        source = source.reshape(*x.shape[:-1], self.k, self.d_model)
        cross = iter(self.cross)
        return super()._through(x, lambda layer, x, cache: run(layer, next(cross)(x, source), cache), layers, caches)

    @nn.nowrap
    def flops(self, length, ratios=()):
        """The stack's, and queries, keys, values, scores and outputs of the cross-attention."""
        parts, D = super().flops(length), self.d_model
        return parts | {"cross": len(parse_layout(self.layout)) * (4 * D**2 + self.k * (4 * D**2 + 4 * D))}
