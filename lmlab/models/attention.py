"""Causal self-attention with rotary positions, a sliding window and packed documents."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.attention import attention, attention_step
from lmlab.models.layers import normal, parameter


def rotary(x_BLHK, position_BL, rotary_dim, base=10_000.0):
    """Rotate the first `rotary_dim` channels of each head by position, halves paired (Su et al. 2021; NeoX form).

    Only differences of positions reach the scores, so positions may count from anywhere in a packed row.
    """
    half = rotary_dim // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position_BL[:, :, None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle).astype(x_BLHK.dtype), jnp.sin(angle).astype(x_BLHK.dtype)
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
        qkv = (x_BLD @ self.wqkv.reshape(D, 3 * H * K)).reshape(*x_BLD.shape[:2], 3, H, K)
        q, k, v = (part[:, :, 0] for part in jnp.split(qkv, 3, axis=2))  # its gradient: one concatenation
        return rotary(q, position_BL, self.rotary_dim), rotary(k, position_BL, self.rotary_dim), v

    def _out(self, o_BLHK):
        H, K, D = self.wo.shape
        return o_BLHK.reshape(*o_BLHK.shape[:2], H * K) @ self.wo.reshape(H * K, D)

    def __call__(self, x_BLD, segment_ids_BL):
        """Attention within each segment."""
        position_BL = jnp.arange(x_BLD.shape[1])[None]
        return self._out(attention(*self._qkv(x_BLD, position_BL), segment_ids_BL, self.window))

    @nn.nowrap
    def init_cache(self, batch, length, dtype=jnp.float32):
        """Ring buffers of keys and values for `length` positions, or for the window if that is shorter."""
        slots = length if self.window is None else min(self.window, length)
        shape = (batch, slots, self.n_heads, self.d_model // self.n_heads)
        return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype), "index": jnp.zeros(batch, jnp.int32)}

    def prefill(self, x_BLD, valid_BL, cache):
        """Forward over right-padded prompts (`valid_BL` marks the prefix); returns (y_BLD, filled cache)."""
        L = x_BLD.shape[1]
        q, k, v = self._qkv(x_BLD, jnp.arange(L)[None])
        y_BLD = self._out(attention(q, k, v, valid_BL.astype(jnp.int32), self.window))
        slots, count_B = cache["k"].shape[1], jnp.sum(valid_BL, axis=1)
        position_BL = jnp.arange(L)[None]
        kept = valid_BL & (position_BL >= count_B[:, None] - slots)
        slot_BL = jnp.where(kept, position_BL % slots, slots)  # slot `slots` does not exist: dropped
        row = jnp.arange(x_BLD.shape[0])[:, None]
        return y_BLD, {
            "k": cache["k"].at[row, slot_BL].set(k.astype(cache["k"].dtype), mode="drop"),
            "v": cache["v"].at[row, slot_BL].set(v.astype(cache["v"].dtype), mode="drop"),
            "index": count_B.astype(jnp.int32),
        }

    def step(self, x_BD, cache, active_B):
        """One position for the active rows; the cache of the others does not change."""
        q, k, v = self._qkv(x_BD[:, None], cache["index"][:, None])
        slots = cache["k"].shape[1]
        slot_B = jnp.where(active_B, cache["index"] % slots, slots)
        row = jnp.arange(x_BD.shape[0])
        k_BSHK = cache["k"].at[row, slot_B].set(k[:, 0].astype(cache["k"].dtype), mode="drop")
        v_BSHK = cache["v"].at[row, slot_B].set(v[:, 0].astype(cache["v"].dtype), mode="drop")
        index_B = cache["index"] + active_B
        o_BHK = attention_step(q[:, 0], k_BSHK, v_BSHK, jnp.arange(slots) < index_B[:, None])
        return self._out(o_BHK[:, None])[:, 0], {"k": k_BSHK, "v": v_BSHK, "index": index_B}

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
