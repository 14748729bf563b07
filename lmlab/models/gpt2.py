"""GPT-2's transformer (Radford et al. 2019): learned positions, LayerNorm and biases everywhere, a GELU MLP."""

import flax.linen as nn

from lmlab.kernels.elementwise import linear
from lmlab.models.attention import Attention
from lmlab.models.layers import LayerNorm, normal, parameter
from lmlab.models.positions import LearnedPositions
from lmlab.models.stack import Block, Blocks


class GPT2Attention(Attention):
    """Attention with biases, without rotary positions."""

    def setup(self):
        super().setup()
        D, H = self.d_model, self.n_heads
        self.bqkv = parameter(self, "bqkv", nn.initializers.zeros, (3, H, D // H), (None, "heads", None))
        self.bo = parameter(self, "bo", nn.initializers.zeros, (D,), (None,))

    def _qkv(self, x_BLD, position_BL):
        x_BLD = x_BLD.astype(self.wqkv.dtype)
        D, _, H, K = self.wqkv.shape
        qkv = linear(x_BLD, self.wqkv.reshape(D, 3 * H * K)).reshape(*x_BLD.shape[:2], 3, H, K)
        qkv = qkv + self.bqkv.astype(qkv.dtype)
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]

    def _out(self, o_BLHK):
        y_BLD = super()._out(o_BLHK)
        return y_BLD + self.bo.astype(y_BLD.dtype)


class GPT2MLP(nn.Module):
    """W_out gelu(W_in x + b_in) + b_out, with GELU's tanh form."""

    d_model: int
    d_ff: int
    out_std: float = 0.02

    def setup(self):
        D, F, zeros = self.d_model, self.d_ff, nn.initializers.zeros
        self.wi = parameter(self, "wi", normal(0.02), (D, F), ("embed", "inner"))
        self.bi = parameter(self, "bi", zeros, (F,), ("inner",))
        self.wo = parameter(self, "wo", normal(self.out_std), (F, D), ("inner", "embed"))
        self.bo = parameter(self, "bo", zeros, (D,), (None,))

    def __call__(self, x):
        """[..., D] -> [..., D]."""
        h = linear(x.astype(self.wi.dtype), self.wi)
        y = linear(nn.gelu(h + self.bi.astype(h.dtype), approximate=True), self.wo)
        return y + self.bo.astype(y.dtype)

    @nn.nowrap
    def flops(self):
        """Forward FLOPs per position."""
        return 4 * self.d_model * self.d_ff + 8 * self.d_ff


class GPT2Block(Block):
    """`Block` with LayerNorm."""

    eps: float = 1e-5

    def setup(self):
        self.norm1, self.norm2 = LayerNorm(self.d_model, self.eps), LayerNorm(self.d_model, self.eps)


class GPT2Stack(Blocks):
    """`n_layers` blocks and a LayerNorm; output projections start at N(0, 0.02^2 / (2 n_layers))."""

    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int
    eps: float = 1e-5
    remat: bool = False

    @nn.nowrap
    def blocks(self):
        """All alike."""
        out_std = 0.02 / (2 * self.n_layers) ** 0.5

        def block():
            mixer = GPT2Attention(self.d_model, self.n_heads, 0, None, out_std, parent=None)
            mlp = GPT2MLP(self.d_model, self.d_ff, out_std, parent=None)
            return (nn.remat(GPT2Block) if self.remat else GPT2Block)(self.d_model, mixer, mlp, self.eps)

        return [block() for _ in range(self.n_layers)]

    @nn.nowrap
    def last_norm(self):
        """Of what leaves the stack."""
        return LayerNorm(self.d_model, self.eps)


class GPT2Positions(LearnedPositions):
    """`LearnedPositions` that start at N(0, 0.02^2)."""

    def setup(self):
        self.table = parameter(self, "table", normal(0.02), (self.length, self.d_model), (None, "embed"))


def gpt2(n_layers, d_model, n_heads, length, d_ff=None, eps=1e-5):
    """A backbone of GPT-2's, for texts of up to `length` tokens."""
    return GPT2Positions(GPT2Stack(n_layers, d_model, n_heads, d_ff or 4 * d_model, eps), length)
