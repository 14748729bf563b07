"""Causal self-attention with rotary positions, a sliding window and packed documents."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError
from lmlab.kernels.attention import attention_branches, attention_step
from lmlab.kernels.dispatch import attention
from lmlab.kernels.elementwise import linear
from lmlab.models.cache import put, take
from lmlab.models.layers import normal, parameter

CACHE_BLOCK = 128  # slots of each of a cache's first four blocks; every other is as long as all before it


def frequencies(rotary_dim, base=10_000.0, xp=np):
    """Radians per position of each pair of channels, float32 [rotary_dim / 2]."""
    half = rotary_dim // 2
    return base ** (-xp.arange(half, dtype=xp.float32) / half)


def rotary(x_BLHK, position_BL, rotary_dim, base=10_000.0, frequency=None):
    """Rotate the first `rotary_dim` channels of each head by position, halves paired (Su et al. 2021; NeoX form), by
    `frequency` radians per position, or by those of `base`.

    Only differences of positions reach the scores, so positions may count from anywhere in a packed row. Give them
    as a NumPy array where they are known: XLA's CPU back end recomputes a traced cosine at every use.
    """
    xp = np if isinstance(position_BL, np.ndarray) else jnp
    half = rotary_dim // 2
    frequency = frequencies(rotary_dim, base, xp) if frequency is None else frequency
    angle = position_BL[:, :, None, None].astype(xp.float32) * frequency
    cos, sin = (jnp.asarray(f(angle), x_BLHK.dtype) for f in (xp.cos, xp.sin))
    a, b, rest = jnp.split(x_BLHK, [half, 2 * half], axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


class Attention(nn.Module):
    """Multi-head attention, no biases: [B, L, D] -> [B, L, D].

    `window` counts the keys a query sees, itself included; None sees the whole document.
    """

    d_model: int
    n_heads: int
    rotary_dim: int
    window: int | None = None
    out_std: float = 0.02
    rotary_base: float = 10_000.0

    part = "attention"  # what its FLOPs are counted as

    def setup(self):
        head = self.d_model // self.n_heads
        self.wqkv = parameter(
            self, "wqkv", normal(0.02), (self.d_model, 3, self.n_heads, head), ("embed", None, "heads", None)
        )
        self.wo = parameter(
            self, "wo", normal(self.out_std), (self.n_heads, head, self.d_model), ("heads", None, "embed")
        )

    def _qkv(self, x_BLD, position_BL):
        x_BLD = x_BLD.astype(self.wqkv.dtype)
        D, _, H, K = self.wqkv.shape
        qkv = linear(x_BLD, self.wqkv.reshape(D, 3 * H * K)).reshape(*x_BLD.shape[:2], 3, H, K)
        q, k, v = (part[:, :, 0] for part in jnp.split(qkv, 3, axis=2))  # its gradient: one concatenation
        q, k = (rotary(x, position_BL, self.rotary_dim, self.rotary_base) for x in (q, k))
        return q, k, v

    def _out(self, o_BLHK):
        H, K, D = self.wo.shape
        return linear(o_BLHK.reshape(*o_BLHK.shape[:2], H * K), self.wo.reshape(H * K, D))

    def __call__(self, x_BLD, segment_ids_BL):
        """Attention within each segment."""
        position_BL = np.arange(x_BLD.shape[1])[None]
        return self._out(attention(*self._qkv(x_BLD, position_BL), segment_ids_BL, self.window))

    @nn.nowrap
    def init_cache(self, batch, length, dtype=jnp.float32):
        """Ring buffers of keys and values for `length` positions, or for the window if that is shorter.

        Tuples of blocks [B * H, slots of the block, K], see `attention_step`. Few, as each is compiled by itself;
        of short caches not much more is read than is filled, of long ones at most twice as much.
        """
        slots = length if self.window is None else min(self.window, length)
        sizes = [min(slots, CACHE_BLOCK)]
        while sum(sizes) < slots:
            sizes.append(min(CACHE_BLOCK if len(sizes) < 4 else sum(sizes), slots - sum(sizes)))
        head = self.d_model // self.n_heads
        k, v = (tuple(jnp.zeros((batch * self.n_heads, size, head), dtype) for size in sizes) for _ in "kv")
        return {"k": k, "v": v, "index": jnp.zeros(batch, jnp.int32)}

    def _slots(self, cache):
        return sum(block.shape[1] for block in cache["k"])

    def prefill(self, x_BLD, valid_BL, cache):
        """Forward over right-padded prompts (`valid_BL` marks the prefix); returns (y_BLD, filled cache).

        The cache is fresh: a second prefill does not see the first. UserError for a prompt longer than it.
        """
        L = x_BLD.shape[1]
        if self.window is None and L > self._slots(cache):
            raise UserError(f"A prompt of {L} positions does not fit a cache for {self._slots(cache)}.")
        q, k, v = self._qkv(x_BLD, np.arange(L)[None])
        y_BLD = self._out(attention(q, k, v, valid_BL.astype(jnp.int32), self.window))
        slots, count_B = self._slots(cache), jnp.sum(valid_BL, axis=1)
        position_BL = jnp.arange(L)[None]
        kept_BL = valid_BL & (position_BL >= count_B[:, None] - slots)
        slot_NL = jnp.repeat(jnp.where(kept_BL, position_BL % slots, -1), self.n_heads, axis=0)

        def write(cache_ZNQK, new_BLHK):
            new_NLK = jnp.swapaxes(new_BLHK, 1, 2).reshape(-1, L, new_BLHK.shape[-1])
            return _write(cache_ZNQK, new_NLK, jnp.arange(len(new_NLK))[:, None], slot_NL)

        index_B = count_B.astype(jnp.int32)
        return y_BLD, {"k": write(cache["k"], k), "v": write(cache["v"], v), "index": index_B}

    def step(self, x_BD, cache, active_B, row_B=None):
        """One position for the active rows; the cache of the others does not change. `row_B`: see `Stack.step`."""
        H = self.n_heads
        index_B = take(cache["index"], row_B)
        q, k, v = self._qkv(x_BD[:, None], index_B[:, None])
        slots = self._slots(cache)
        slot_N = jnp.repeat(jnp.where(active_B, index_B % slots, -1), H)
        row_N = None if row_B is None else (row_B[:, None] * H + jnp.arange(H)).reshape(-1)

        def write(cache_ZNQK, new_B1HK):
            rows = jnp.arange(len(slot_N)) if row_N is None else row_N
            return _write(cache_ZNQK, new_B1HK.reshape(-1, new_B1HK.shape[-1]), rows, slot_N)

        k_ZNQK, v_ZNQK = write(cache["k"], k), write(cache["v"], v)
        o_BHK = attention_step(q[:, 0], k_ZNQK, v_ZNQK, jnp.minimum(index_B + active_B, slots), row_N)
        index = put(cache["index"], index_B + 1, active_B, row_B)
        return self._out(o_BHK[:, None])[:, 0], {"k": k_ZNQK, "v": v_ZNQK, "index": index}

    @nn.nowrap
    def can_branch(self):
        """Whether a slot holds the same position for good, as `branch` needs it."""
        return self.window is None

    def branch(self, x_ND, cache, leaves):
        """`Leaves` of the trees in the cache: [N, D] -> ([N, D], cache)."""
        H, (B, R, _) = self.n_heads, leaves.seen_BRS.shape
        q_NHK, k_NHK, v_NHK = (x[:, 0] for x in self._qkv(x_ND[:, None], leaves.position_N[:, None]))
        row_N, slot_N = (leaves.row_N[:, None] * H + jnp.arange(H)).reshape(-1), jnp.repeat(leaves.slot_N, H)
        k_ZNQK = _write(cache["k"], k_NHK.reshape(len(row_N), -1), row_N, slot_N)
        v_ZNQK = _write(cache["v"], v_NHK.reshape(len(row_N), -1), row_N, slot_N)
        q_BRHK = jnp.zeros((B, R, *q_NHK.shape[1:]), q_NHK.dtype)
        q_BRHK = q_BRHK.at[leaves.row_N, leaves.rank_N].set(q_NHK, mode="drop")
        o_BRHK = attention_branches(q_BRHK, k_ZNQK, v_ZNQK, leaves.seen_BRS)
        y_ND = self._out(o_BRHK[leaves.row_N, leaves.rank_N][:, None])[:, 0]
        return y_ND, cache | {"k": k_ZNQK, "v": v_ZNQK}

    @nn.nowrap
    def emptied(self, cache, empty_B, row_B=None):
        """The cache, with nothing seen in the rows `empty_B`: what lies beyond the index is never read."""
        index = take(cache["index"], row_B)
        return cache | {"index": put(cache["index"], jnp.zeros_like(index), empty_B, row_B)}

    @nn.nowrap
    def flops(self, length):
        """Forward FLOPs per position at sequence length `length` (H-Net, arXiv 2507.07955, appendix B).

        The paper counts every query against all `length` keys, masked or not; a window caps the keys.
        """
        keys = length if self.window is None else min(length, self.window)
        return 8 * self.d_model**2 + 4 * keys * self.d_model + 3 * self.n_heads * keys


def _write(cache_ZNQK, new, row, slot):
    """`new` [..., K] at (row, slot) of the cache; slot -1 is dropped."""
    written, first = [], 0
    for cache_NQK in cache_ZNQK:
        Q = cache_NQK.shape[1]
        at = jnp.where((slot >= first) & (slot < first + Q), slot - first, Q)
        written.append(cache_NQK.at[row, at].set(new.astype(cache_NQK.dtype), mode="drop"))
        first += Q
    return tuple(written)
