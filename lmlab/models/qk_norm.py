"""The transformer of SpaceByte and of its baselines (Slagle 2024, arXiv 2404.14408, section 4): queries and keys normed.

Pre-norm blocks without any bias; LayerNorm, also of every query and key; rotary positions on whole heads; a ReLU MLP.
Matrices start at N(0, 1 / d_in). Its learned positions are `positions.LearnedPositions` around the stack. A window
counts the keys that a query sees, itself included, as the original's GPU path has it; its CPU path lets one more in.
"""

import flax.linen as nn
import jax.numpy as jnp

from lmlab.kernels.elementwise import linear
from lmlab.models.attention import Attention, rotary
from lmlab.models.layers import LayerNorm, normal, parameter
from lmlab.models.stack import Block, Blocks


class ReLUMLP(nn.Module):
    """W_out relu(W_in x), no biases."""

    d_model: int
    d_ff: int

    def setup(self):
        D, F = self.d_model, self.d_ff
        self.wi = parameter(self, "wi", normal(D**-0.5), (D, F), ("embed", "inner"))
        self.wo = parameter(self, "wo", normal(F**-0.5), (F, D), ("inner", "embed"))

    def __call__(self, x):
        """[..., D] -> [..., D]."""
        return linear(nn.relu(linear(x.astype(self.wi.dtype), self.wi)), self.wo)

    @nn.nowrap
    def flops(self):
        """Forward FLOPs per position."""
        return 4 * self.d_model * self.d_ff + self.d_ff


class QKNormAttention(Attention):
    """Attention between normed queries and keys, rotary on whole heads."""

    def setup(self):
        D, H = self.d_model, self.n_heads
        std, axes = D**-0.5, ("embed", None, "heads", None)
        self.wqkv = parameter(self, "wqkv", normal(std), (D, 3, H, D // H), axes)
        self.wo = parameter(self, "wo", normal(std), (H, D // H, D), ("heads", None, "embed"))
        self.q_norm, self.k_norm = LayerNorm(D // H, bias=False), LayerNorm(D // H, bias=False)

    def _qkv(self, x_BLD, position_BL):
        D, _, H, K = self.wqkv.shape
        qkv = linear(x_BLD.astype(self.wqkv.dtype), self.wqkv.reshape(D, 3 * H * K)).reshape(*x_BLD.shape[:2], 3, H, K)
        q, k, v = (part[:, :, 0] for part in jnp.split(qkv, 3, axis=2))
        q, k = (rotary(norm(x), position_BL, K).astype(v.dtype) for norm, x in ((self.q_norm, q), (self.k_norm, k)))
        return q, k, v


class LayerNormBlock(Block):
    """`Block` with LayerNorm, without biases."""

    def setup(self):
        self.norm1, self.norm2 = LayerNorm(self.d_model, bias=False), LayerNorm(self.d_model, bias=False)


class QKNormStack(Blocks):
    """`n_layers` blocks. `normed`: a LayerNorm behind the last, which the original has before the head only."""

    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    window: int | None = None
    normed: bool = False
    remat: bool = False

    @nn.nowrap
    def blocks(self):
        """All alike."""

        def block():
            mixer = QKNormAttention(self.d_model, self.n_heads, 0, self.window, parent=None)
            mlp = ReLUMLP(self.d_model, self.d_ff, parent=None)
            return (nn.remat(LayerNormBlock) if self.remat else LayerNormBlock)(self.d_model, mixer, mlp)

        return [block() for _ in range(self.n_layers)]

    @nn.nowrap
    def last_norm(self):
        """Of what leaves the stack."""
        return LayerNorm(self.d_model, bias=False) if self.normed else None
