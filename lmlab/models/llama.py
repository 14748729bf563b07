"""Llama's transformer (Touvron et al. 2023): RMSNorm, rotary positions on whole heads, SwiGLU, and queries that share
keys and values in groups (GQA, Ainslie et al. 2023). A `Stack` has neither groups nor heads of their own width."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lmlab.kernels.elementwise import linear
from lmlab.models.attention import Attention, frequencies, rotary
from lmlab.models.layers import RMSNorm, SwiGLU, normal, parameter
from lmlab.models.stack import Block, Blocks


def stretched(frequency, factor, low, high, length):
    """Rotary frequencies of Llama 3.1, for texts `factor` times longer than the `length` of the first training.

    Turns that fit less than `low` times into `length` are slowed by `factor`, those that fit more than `high` times
    stay as they are, and between the two the change is gradual.
    """
    turns = length * frequency / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (frequency * (kept + (1 - kept) / factor)).astype(np.float32)


class GroupedAttention(Attention):
    """Attention of `n_heads` queries over `n_groups` keys and values, each read by as many queries.

    The cache holds keys and values once per query. `stretch`: (factor, low, high, length) of `stretched`, () for none.
    """

    n_groups: int = 1
    d_head: int = 64
    stretch: tuple[float, ...] = ()

    def setup(self):
        D, H, G, K = self.d_model, self.n_heads, self.n_groups, self.d_head
        axes = ("embed", "heads", None)
        self.wq = parameter(self, "wq", normal(0.02), (D, H, K), axes)
        self.wk = parameter(self, "wk", normal(0.02), (D, G, K), axes)
        self.wv = parameter(self, "wv", normal(0.02), (D, G, K), axes)
        self.wo = parameter(self, "wo", normal(self.out_std), (H, K, D), ("heads", None, "embed"))

    def _qkv(self, x_BLD, position_BL):
        x_BLD = x_BLD.astype(self.wq.dtype)

        def project(w):
            D, N, K = w.shape
            return linear(x_BLD, w.reshape(D, N * K)).reshape(*x_BLD.shape[:2], N, K)

        frequency = frequencies(self.d_head, self.rotary_base)
        if self.stretch:
            frequency = stretched(frequency, *self.stretch)
        q, k = (rotary(project(w), position_BL, self.d_head, frequency=frequency) for w in (self.wq, self.wk))
        k, v = (jnp.repeat(x, self.n_heads // self.n_groups, axis=2) for x in (k, project(self.wv)))
        return q, k, v

    @nn.nowrap
    def init_cache(self, batch, length, dtype=jnp.float32):
        """As of plain attention with heads of this width."""
        plain = Attention(self.n_heads * self.d_head, self.n_heads, 0, self.window, parent=None)
        return plain.init_cache(batch, length, dtype)

    @nn.nowrap
    def flops(self, length):
        """Forward FLOPs per position, counted as for `Attention`."""
        keys = length if self.window is None else min(length, self.window)
        projections = 4 * self.d_model * self.d_head * (self.n_heads + self.n_groups)
        return projections + (4 * self.d_head + 3) * self.n_heads * keys


class LlamaBlock(Block):
    """`Block` with its own eps."""

    eps: float = 1e-5

    def setup(self):
        self.norm1, self.norm2 = RMSNorm(self.d_model, self.eps), RMSNorm(self.d_model, self.eps)


class LlamaStack(Blocks):
    """`n_layers` blocks and an RMSNorm; output projections start at N(0, 0.02^2 / (2 n_layers)).

    `window` counts the keys that a query sees, as in Mistral. `stretch`: see `GroupedAttention`.
    """

    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_groups: int
    d_head: int
    eps: float = 1e-5
    rotary_base: float = 10_000.0
    stretch: tuple[float, ...] = ()
    window: int | None = None
    remat: bool = False

    @nn.nowrap
    def blocks(self):
        """All alike."""
        out_std = 0.02 / (2 * self.n_layers) ** 0.5
        heads = (self.n_groups, self.d_head, self.stretch)

        def block():
            attention = (self.d_model, self.n_heads, self.d_head, self.window, out_std, self.rotary_base)
            mixer = GroupedAttention(*attention, *heads, parent=None)
            mlp = SwiGLU(self.d_model, self.d_ff, out_std, parent=None)
            return (nn.remat(LlamaBlock) if self.remat else LlamaBlock)(self.d_model, mixer, mlp, self.eps)

        return [block() for _ in range(self.n_layers)]

    @nn.nowrap
    def last_norm(self):
        """Of what leaves the stack."""
        return RMSNorm(self.d_model, self.eps)
