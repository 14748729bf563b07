"""Causal self-attention with rotary positions, a sliding window and packed documents."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmlab.kernels.attention import attention, attention_step
from lmlab.kernels.elementwise import linear
from lmlab.models.layers import normal, parameter


def rotary(x_BLHK, position_BL, rotary_dim, base=10_000.0):
    """Rotate the first `rotary_dim` channels of each head by position, halves paired (Su et al. 2021; NeoX form).

    Only differences of positions reach the scores, so positions may count from anywhere in a packed row. Give them
    as a NumPy array where they are known: XLA's CPU back end recomputes a traced cosine at every use.
    """
    xp = np if isinstance(position_BL, np.ndarray) else jnp
    half = rotary_dim // 2
    frequency = base ** (-xp.arange(half, dtype=xp.float32) / half)
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
        return rotary(q, position_BL, self.rotary_dim), rotary(k, position_BL, self.rotary_dim), v

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

        [B * H, slots, K], rows and heads merged: XLA's CPU back end transposes a cache whose heads come after its
        slots, and copies one with an axis of size 1 (batch 1) at every update.
        """
        slots = length if self.window is None else min(self.window, length)
        shape = (batch * self.n_heads, slots, self.d_model // self.n_heads)
        return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype), "index": jnp.zeros(batch, jnp.int32)}

    def prefill(self, x_BLD, valid_BL, cache):
        """Forward over right-padded prompts (`valid_BL` marks the prefix); returns (y_BLD, filled cache)."""
        L = x_BLD.shape[1]
        q, k, v = self._qkv(x_BLD, np.arange(L)[None])
        y_BLD = self._out(attention(q, k, v, valid_BL.astype(jnp.int32), self.window))
        slots, count_B = cache["k"].shape[1], jnp.sum(valid_BL, axis=1)
        position_BL = jnp.arange(L)[None]
        kept = valid_BL & (position_BL >= count_B[:, None] - slots)
        slot_BL = jnp.where(kept, position_BL % slots, slots)  # slot `slots` does not exist: dropped
        row, slot = jnp.arange(cache["k"].shape[0])[:, None], jnp.repeat(slot_BL, self.n_heads, axis=0)

        def write(cache_NSK, new_BLHK):
            new_NLK = jnp.swapaxes(new_BLHK, 1, 2).reshape(-1, L, new_BLHK.shape[-1])
            return cache_NSK.at[row, slot].set(new_NLK.astype(cache_NSK.dtype), mode="drop")

        return y_BLD, {
            "k": write(cache["k"], k),
            "v": write(cache["v"], v),
            "index": count_B.astype(jnp.int32),
        }

    def step(self, x_BD, cache, active_B):
        """One position for the active rows; the cache of the others does not change."""
        q, k, v = self._qkv(x_BD[:, None], cache["index"][:, None])
        slots = cache["k"].shape[1]
        slot_B = jnp.where(active_B, cache["index"] % slots, slots)
        row, slot = jnp.arange(cache["k"].shape[0]), jnp.repeat(slot_B, self.n_heads)

        def write(cache_NSK, new_B1HK):
            new_NK = new_B1HK.reshape(-1, new_B1HK.shape[-1])
            return cache_NSK.at[row, slot].set(new_NK.astype(cache_NSK.dtype), mode="drop")

        k_NSK, v_NSK = write(cache["k"], k), write(cache["v"], v)
        index_B = cache["index"] + active_B
        o_BHK = attention_step(q[:, 0], k_NSK, v_NSK, jnp.arange(slots) < index_B[:, None])
        return self._out(o_BHK[:, None])[:, 0], {"k": k_NSK, "v": v_NSK, "index": index_B}

    @nn.nowrap
    def flops(self, length):
        """Forward FLOPs per position at sequence length `length` (H-Net, arXiv 2507.07955, appendix B).

        The paper counts every query against all `length` keys, masked or not; a window caps the keys.
        """
        keys = length if self.window is None else min(length, self.window)
        return 8 * self.d_model**2 + 4 * keys * self.d_model + 3 * self.n_heads * keys


def shift_right(x, fill):
    """x_{t-1} along axis 1, `fill` at t = 0."""
    first = jnp.full_like(x[:, :1], fill)
    return jax.lax.concatenate([first, x[:, :-1]], dimension=1)
