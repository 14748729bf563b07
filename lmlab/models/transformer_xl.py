"""Transformer-XL's blocks without its memory, as dynamic token pooling has them (arXiv 1901.02860; 2211.09761).

Post-norm: x = LN(x + attention(x)), then x = LN(x + mlp(x)), with biases everywhere and no norm at the end. The score
of query i and key j is ((q_i + u) . k_j + (q_i + v) . r_{i-j}) / sqrt(K), r a linear map of the distance's sinusoids.
The original shares u and v among all its layers; here each layer has its own. Its dropout of 0.1 is left out.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError
from lmlab.kernels.dispatch import by_rows
from lmlab.kernels.elementwise import linear
from lmlab.models.cache import put, take
from lmlab.models.layers import LayerNorm, normal, parameter
from lmlab.models.stack import Block, Blocks

MASKED = -1e30


def sinusoids(length, d_model):
    """sin and cos of the distances 0 .. length - 1: [length, d_model] float32."""
    angle = np.arange(length)[:, None] / 10_000 ** (np.arange(0, d_model, 2) / d_model)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)


def _added(x, bias):
    """x + bias in the dtype of x, or a float32 bias would make the products that follow float32. Cast behind the sum, so
    that the bias's gradient is summed in float32."""
    return (x + bias).astype(x.dtype)


class RelativeAttention(nn.Module):
    """Causal self-attention by relative positions: [B, L, D] -> [B, L, D]. Scores are dense: [B, H, L, L]."""

    d_model: int
    n_heads: int

    part = "attention"

    def setup(self):
        D, H = self.d_model, self.n_heads
        K, zeros, axes = D // H, nn.initializers.zeros, ("embed", None, "heads", None)
        self.wqkv = parameter(self, "wqkv", normal(0.02), (D, 3, H, K), axes)
        self.bqkv = parameter(self, "bqkv", zeros, (3, H, K), (None, "heads", None))
        self.wr = parameter(self, "wr", normal(0.02), (D, H, K), ("embed", "heads", None))
        self.br = parameter(self, "br", zeros, (H, K), ("heads", None))
        self.u = parameter(self, "u", zeros, (H, K), ("heads", None))
        self.v = parameter(self, "v", zeros, (H, K), ("heads", None))
        self.wo = parameter(self, "wo", normal(0.02), (H, K, D), ("heads", None, "embed"))
        self.bo = parameter(self, "bo", zeros, (D,), (None,))

    def _qkv(self, x_BLD):
        D, _, H, K = self.wqkv.shape
        qkv = _added(linear(x_BLD.astype(self.wqkv.dtype), self.wqkv.reshape(D, 3 * H * K)), self.bqkv.reshape(-1))
        return [part[..., 0, :, :] for part in jnp.split(qkv.reshape(*x_BLD.shape[:-1], 3, H, K), 3, axis=-3)]

    def _attend(self, scores, seen, value, equation):
        """[..., H, K]."""
        scores = jnp.where(seen, scores.astype(jnp.float32) * value.shape[-1] ** -0.5, MASKED)
        return jnp.einsum(equation, jax.nn.softmax(scores, axis=-1).astype(value.dtype), value)

    def _out(self, o):
        H, K, D = self.wo.shape
        return linear(o.reshape(*o.shape[:-2], H * K), self.wo.reshape(H * K, D)) + self.bo

    def _heads(self, q, k, v, segment_ids_BL):
        B, L = segment_ids_BL.shape
        D, H, K = self.wr.shape
        r_LHK = linear(sinusoids(L, D)[::-1].astype(q.dtype), self.wr.reshape(D, H * K)).reshape(L, H, K)
        r_LHK = _added(r_LHK, self.br)
        scores = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        by_content = scores("bihk,bjhk->bhij", _added(q, self.u), k)
        by_distance = scores("bihk,mhk->bhim", _added(q, self.v), r_LHK)  # column m is distance L - 1 - m
        shifted = jnp.pad(by_distance, ((0, 0), (0, 0), (0, 0), (1, 0))).reshape(B, self.n_heads, L + 1, L)[:, :, 1:]
        seen = np.tri(L, dtype=bool) & (segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :])
        return self._attend(by_content + shifted, seen[:, None], v, "bhij,bjhk->bihk")

    def _forward(self, x_BLD, segment_ids_BL):
        q, k, v = self._qkv(x_BLD)
        return self._out(by_rows(self._heads, (q, k, v), segment_ids_BL)), k, v

    def __call__(self, x_BLD, segment_ids_BL):
        """Attention within each segment."""
        return self._forward(x_BLD, segment_ids_BL)[0]

    @nn.nowrap
    def init_cache(self, batch, length):
        """Ring buffers of keys and values: [B, slots, H, K]."""
        shape = (batch, length, self.n_heads, self.d_model // self.n_heads)
        return {"k": jnp.zeros(shape), "v": jnp.zeros(shape), "index": jnp.zeros(batch, jnp.int32)}

    def prefill(self, x_BLD, valid_BL, cache):
        """Forward over right-padded prompts; returns (y_BLD, filled cache). UserError if they do not fit."""
        L, slots = x_BLD.shape[1], cache["k"].shape[1]
        if L > slots:
            raise UserError(f"A prompt of {L} positions does not fit a cache for {slots}.")
        y_BLD, k, v = self._forward(x_BLD, valid_BL.astype(jnp.int32))
        filled = {n: cache[n].at[:, :L].set(new.astype(cache[n].dtype)) for n, new in (("k", k), ("v", v))}
        return y_BLD, filled | {"index": jnp.sum(valid_BL, axis=1, dtype=jnp.int32)}

    def _read_cache(self, q, distance, seen, keys, values):
        """Queries [B, ..., H, K] to all slots, `distance` [B, ..., S] behind them, where `seen`: [B, ..., H, K]."""
        q_v, far = _added(q, self.v), sinusoids(keys.shape[1], self.d_model).astype(q.dtype)
        at_distance = jnp.einsum("...hd,sd->...hs", jnp.einsum("...hk,dhk->...hd", q_v, self.wr), far)
        at_distance += jnp.sum(q_v * self.br, -1, keepdims=True)
        by_distance = jnp.take_along_axis(at_distance, distance[..., None, :], axis=-1)
        scores = jnp.einsum("b...hk,bshk->b...hs", _added(q, self.u), keys.astype(q.dtype)) + by_distance
        return self._attend(scores, seen[..., None, :], values.astype(q.dtype), "b...hs,bshk->b...hk")

    def step(self, x_BD, cache, active_B, row_B=None):
        """One position for the active rows; the cache of the others does not change. `row_B`: see `Stack.step`."""
        q, k, v = self._qkv(x_BD)
        slots, index_B = cache["k"].shape[1], take(cache["index"], row_B)
        rows = jnp.arange(len(x_BD)) if row_B is None else row_B
        slot_B = jnp.where(active_B, index_B % slots, slots)
        new = {
            n: cache[n].at[rows, slot_B].set(x.astype(cache[n].dtype), mode="drop") for n, x in (("k", k), ("v", v))
        }
        distance_BS = (index_B[:, None] - jnp.arange(slots)) % slots
        seen_BS = distance_BS <= index_B[:, None]
        o_BHK = self._read_cache(q, distance_BS, seen_BS, take(new["k"], row_B), take(new["v"], row_B))
        return self._out(o_BHK), new | {"index": put(cache["index"], index_B + 1, active_B, row_B)}

    def extend(self, x_BND, count_B, cache):
        """The first `count_B` of N positions behind those in the cache, in one pass; what is returned of the others means
        nothing. The cache must have a slot for each: a ring would lose keys that the first of them see."""
        q, k, v = self._qkv(x_BND)
        slots, place_N = cache["k"].shape[1], jnp.arange(x_BND.shape[1])
        position_BN = cache["index"][:, None] + place_N
        slot_BN = jnp.where(place_N < count_B[:, None], position_BN, slots)
        rows_B1 = jnp.arange(len(x_BND))[:, None]
        new = {
            n: cache[n].at[rows_B1, slot_BN].set(x.astype(cache[n].dtype), mode="drop") for n, x in (("k", k), ("v", v))
        }
        distance_BNS = position_BN[..., None] - jnp.arange(slots)
        o_BNHK = self._read_cache(q, jnp.maximum(distance_BNS, 0), distance_BNS >= 0, new["k"], new["v"])
        return self._out(o_BNHK), new | {"index": cache["index"] + count_B}

    @nn.nowrap
    def emptied(self, cache, empty_B, row_B=None):
        """The cache, with nothing seen in the rows `empty_B`."""
        index = take(cache["index"], row_B)
        return cache | {"index": put(cache["index"], jnp.zeros_like(index), empty_B, row_B)}

    @nn.nowrap
    def flops(self, length):
        """Forward FLOPs per position: every query against all keys and all distances."""
        return 8 * self.d_model**2 + 6 * length * self.d_model + 3 * self.n_heads * length


class GELUMLP(nn.Module):
    """W_out gelu(W_in x + b) + b."""

    d_model: int
    d_ff: int

    def setup(self):
        D, F, zeros = self.d_model, self.d_ff, nn.initializers.zeros
        self.wi = parameter(self, "wi", normal(0.02), (D, F), ("embed", "inner"))
        self.bi = parameter(self, "bi", zeros, (F,), ("inner",))
        self.wo = parameter(self, "wo", normal(0.02), (F, D), ("inner", "embed"))
        self.bo = parameter(self, "bo", zeros, (D,), (None,))

    def __call__(self, x):
        """[..., D] -> [..., D]."""
        h = _added(linear(x.astype(self.wi.dtype), self.wi), self.bi)
        return linear(nn.gelu(h, approximate=False), self.wo) + self.bo

    @nn.nowrap
    def flops(self):
        """Forward FLOPs per position."""
        return 4 * self.d_model * self.d_ff + 8 * self.d_ff


class PostNormBlock(Block):
    """LN(x + mixer(x)), then LN(x + mlp(x))."""

    def setup(self):
        self.norm1, self.norm2 = LayerNorm(self.d_model), LayerNorm(self.d_model)

    def read(self, x):
        """The residual stream as it is: it was normed behind the last addition."""
        return x

    def add(self, x, mixed):
        """The block's output."""
        x = self.norm1(x + mixed)
        return self.norm2(x + self.mlp(x))

    def extend(self, x_BND, count_B, cache):
        """Several positions: see `RelativeAttention.extend`."""
        mixed, cache = self.mixer.extend(self.read(x_BND), count_B, cache)
        return self.add(x_BND, mixed), cache


class TransformerXL(Blocks):
    """`n_layers` post-norm blocks."""

    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    remat: bool = False

    @nn.nowrap
    def blocks(self):
        """All alike."""

        def block():
            mixer = RelativeAttention(self.d_model, self.n_heads, parent=None)
            mlp = GELUMLP(self.d_model, self.d_ff, parent=None)
            return (nn.remat(PostNormBlock) if self.remat else PostNormBlock)(self.d_model, mixer, mlp)

        return [block() for _ in range(self.n_layers)]

    @nn.nowrap
    def last_norm(self):
        """None: the last block ends in one."""
        return None

    def extend(self, x_BND, count_B, cache):
        """Several positions: see `RelativeAttention.extend`."""
        return self._through(x_BND, lambda layer, x, cache: layer.extend(x, count_B, cache), self.layers, cache)
