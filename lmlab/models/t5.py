"""The parts of T5 v1.1 (Raffel et al. 2020, arXiv 1910.10683): relative position biases, attention, gated GELU, blocks.

No biases, pre-norm, RMSNorm with epsilon 1e-6, scores that are not scaled. Initial values are those of the T5 code.
Positions of a row that carry the same segment id see one another; 0 is padding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmlab.kernels.biased_attention import diagonals
from lmlab.kernels.dispatch import biased_attention
from lmlab.kernels.elementwise import embed, linear
from lmlab.models.layers import RMSNorm, normal, parameter

EPS = 1e-6
SCORES = "scores"  # the variables in which attention says what its large scores come to, where a loss makes them mutable
LARGE = 5.0
# T5 trains with Adafactor, whose steps grow with what they change. Adam's do not: at a rate of 3e-3 a bias that is to pick one
# position of hundreds would be on its way for thousands of steps. The same at every scale, under AdamW as here.
UNIT = 20.0


def same_segment(q_segments_BL, k_segments_BM):
    """Which keys a query sees: [B, L, M] bool."""
    return q_segments_BL[:, :, None] == k_segments_BM[:, None, :]


def relative_bucket(distance, bidirectional, buckets=32, max_distance=128):
    """T5's bucket of a distance key - query (int, any shape): exact for short distances, logarithmic up to
    `max_distance`, the last bucket beyond. Bidirectional: half of the buckets for keys behind the query. NumPy in,
    NumPy out."""
    xp = np if isinstance(distance, np.ndarray) else jnp
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = xp.where(distance > 0, buckets, 0)
        distance = xp.abs(distance)
    else:
        distance = xp.maximum(-distance, 0)
    exact = buckets // 2
    ratio = xp.log(xp.maximum(distance, 1).astype(xp.float32) / exact) / np.float32(np.log(max_distance / exact))
    far = xp.minimum(exact + (ratio * (buckets - exact)).astype(xp.int32), buckets - 1)
    return (offset + xp.where(distance < exact, distance, far)).astype(xp.int32)


@jax.checkpoint
def excess(q_BLHK, k_BMHK, biases, seen_BLM):
    """(max(q k + bias - LARGE, 0), mean over heads, summed over the keys that a query sees; how many these are): [B, L]
    each. Nothing is stored for its gradient."""
    score_BHLM = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BMHK, preferred_element_type=jnp.float32) + sum(biases)
    over_BLM = jnp.where(seen_BLM, jnp.mean(jnp.maximum(score_BHLM - LARGE, 0.0), axis=1), 0.0)
    return jnp.sum(over_BLM, axis=2), jnp.sum(jnp.broadcast_to(seen_BLM, over_BLM.shape), axis=2)


class RelativeBias(nn.Module):
    """One learned number per head and bucket of distances, in units of `UNIT`; shared by all layers of a stack."""

    n_heads: int
    bidirectional: bool
    buckets: int = 32
    max_distance: int = 128

    def setup(self):
        self.table = parameter(self, "table", normal(0.1 / UNIT), (self.buckets, self.n_heads), (None, "heads"))

    def _values(self, distance):
        bucket = relative_bucket(distance, self.bidirectional, self.buckets, self.max_distance)
        return UNIT * embed(self.table, jnp.asarray(bucket)).astype(jnp.float32)

    def __call__(self, queries, keys):
        """Bias of positions 0..: [1, H, queries, keys]."""
        values_NH = self._values(np.arange(1 - queries, keys))
        return diagonals(values_NH.T, queries)[None]

    def at(self, query_BL, key_BM):
        """Bias of these positions: [B, H, L, M]."""
        return jnp.moveaxis(self._values(key_BM[:, None, :] - query_BL[:, :, None]), 3, 1)


class T5Attention(nn.Module):
    """Multi-head attention of one sequence to another, or to itself."""

    d_model: int
    n_heads: int
    d_kv: int
    null: bool = False  # softmax_1: a query may attend to nothing

    def setup(self):
        D, H, K = self.d_model, self.n_heads, self.d_kv
        self.wq = parameter(self, "wq", normal((D * K) ** -0.5), (D, H, K), ("embed", "heads", None))
        self.wk = parameter(self, "wk", normal(D**-0.5), (D, H, K), ("embed", "heads", None))
        self.wv = parameter(self, "wv", normal(D**-0.5), (D, H, K), ("embed", "heads", None))
        self.wo = parameter(self, "wo", normal((H * K) ** -0.5), (H, K, D), ("heads", None, "embed"))

    def _project(self, x_BLD, w):
        D, H, K = w.shape
        return linear(x_BLD.astype(w.dtype), w.reshape(D, H * K)).reshape(*x_BLD.shape[:2], H, K)

    def keys_values(self, x_BMD):
        """What queries look at: two arrays [B, M, H, K]."""
        return self._project(x_BMD, self.wk), self._project(x_BMD, self.wv)

    def look(self, x_BLD, keys_values, bias, seen, gate=None):
        """Queries from `x_BLD` at the given keys and values: [B, L, D]. `bias` (None: none) and `seen` as in
        `biased_attention`; `gate` is added as `bias` is, and takes no part in what scores are said to be too large."""
        biases = () if bias is None else (bias,)
        q_BLHK = self._project(x_BLD, self.wq)
        if self.is_mutable_collection(SCORES) and not self.is_initializing():
            self.sow(SCORES, "excess", excess(q_BLHK, keys_values[0], biases, seen))
        biases += () if gate is None else (gate,)
        o_BLHK = biased_attention(q_BLHK, *keys_values, biases, seen, self.null)
        H, K, D = self.wo.shape
        return linear(o_BLHK.reshape(*o_BLHK.shape[:2], H * K), self.wo.reshape(H * K, D))

    def __call__(self, x_BLD, bias, seen, gate=None):
        """Self-attention: [B, L, D] -> [B, L, D]."""
        return self.look(x_BLD, self.keys_values(x_BLD), bias, seen, gate)

    @nn.nowrap
    def flops(self, queries, keys):
        """Forward FLOPs of a row: projections, and 4 H K + 3 H per pair of query and key, masked or not."""
        inner = self.n_heads * self.d_kv
        return 4 * self.d_model * inner * (queries + keys) + (4 * inner + 3 * self.n_heads) * queries * keys


class GatedGELU(nn.Module):
    """W_out(gelu(gate) * up), no biases (Shazeer 2020; T5 v1.1). `wi` holds [gate, up]."""

    d_model: int
    d_ff: int

    def setup(self):
        D, F = self.d_model, self.d_ff
        self.wi = parameter(self, "wi", normal(D**-0.5), (D, 2, F), ("embed", None, "inner"))
        self.wo = parameter(self, "wo", normal(F**-0.5), (F, D), ("inner", "embed"))

    def __call__(self, x):
        """[..., D] -> [..., D]."""
        x = x.astype(self.wi.dtype)
        return linear(jax.nn.gelu(linear(x, self.wi[:, 0])) * linear(x, self.wi[:, 1]), self.wo)

    @nn.nowrap
    def flops(self):
        """Forward FLOPs per position: 6 d f + 5 d, as SwiGLU's are counted."""
        return 6 * self.d_model * self.d_ff + 5 * self.d_model


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    d_model: int
    d_ff: int
    n_heads: int
    d_kv: int
    null: bool = False

    def setup(self):
        self.norm1, self.norm2 = RMSNorm(self.d_model, EPS), RMSNorm(self.d_model, EPS)
        self.attention = T5Attention(self.d_model, self.n_heads, self.d_kv, self.null)
        self.mlp = GatedGELU(self.d_model, self.d_ff)

    def __call__(self, x_BSD, bias, seen, gate=None):
        """[B, S, D] -> [B, S, D]."""
        x_BSD = x_BSD + self.attention(self.norm1(x_BSD), bias, seen, gate)
        return x_BSD + self.mlp(self.norm2(x_BSD))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to an encoder's states, MLP; each normed before and added."""

    d_model: int
    d_ff: int
    n_heads: int
    d_kv: int
    null: bool = False

    def setup(self):
        self.norm1, self.norm2, self.norm3 = (RMSNorm(self.d_model, EPS) for _ in range(3))
        self.attention = T5Attention(self.d_model, self.n_heads, self.d_kv, self.null)
        self.cross = T5Attention(self.d_model, self.n_heads, self.d_kv, self.null)
        self.mlp = GatedGELU(self.d_model, self.d_ff)

    def memory(self, states_BSD):
        """Keys and values of the encoder's states."""
        return self.cross.keys_values(states_BSD)

    def _rest(self, x_BLD, memory, gate, cross_seen):
        x_BLD = x_BLD + self.cross.look(self.norm2(x_BLD), memory, None, cross_seen, gate)
        return x_BLD + self.mlp(self.norm3(x_BLD))

    def __call__(self, x_BLD, memory, bias, seen, gate, cross_seen):
        """[B, L, D] -> [B, L, D]."""
        x_BLD = x_BLD + self.attention(self.norm1(x_BLD), bias, seen)
        return self._rest(x_BLD, memory, gate, cross_seen)

    def step(self, x_BD, memory, cache, index_B, bias, gate, cross_seen):
        """Position `index_B` of each row: (y_BD, cache); `cache`: keys and values [B, N, H, K] so far."""
        x_B1D = x_BD[:, None]
        h_B1D = self.norm1(x_B1D)
        row_B = jnp.arange(len(x_BD))
        cache = tuple(
            old.at[row_B, index_B].set(new[:, 0].astype(old.dtype), mode="drop")
            for old, new in zip(cache, self.attention.keys_values(h_B1D), strict=True)
        )
        seen = jnp.arange(cache[0].shape[1]) <= index_B[:, None, None]
        x_B1D = x_B1D + self.attention.look(h_B1D, cache, bias, seen)
        return self._rest(x_B1D, memory, gate, cross_seen)[:, 0], cache
