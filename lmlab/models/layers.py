"""The parts that stacks share: parameters with logical axes, RMSNorm, LayerNorm, SwiGLU.

Modules compute in the dtype of their weights (`training.precision` casts those once a step); the residual
stream, norms and losses stay in float32.

Logical axes: "vocab", "embed" (model width), "heads", "inner" (expanded widths). `training.sharding` maps them
to mesh axes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.elementwise import rms_norm, swiglu


def normal(std):
    """Initialiser N(0, std^2)."""
    return nn.initializers.normal(std)


def parameter(module, name, init, shape, axes):
    """A float32 parameter of `module` whose dimensions carry the logical `axes`."""
    return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, statistics in float32 (Zhang & Sennrich 2019, eq. 4)."""

    d_model: int
    eps: float = 1e-5

    def setup(self):
        self.scale = parameter(self, "scale", nn.initializers.ones, (self.d_model,), (None,))

    def __call__(self, x):
        """[..., D] -> [..., D] float32."""
        return rms_norm(x.astype(jnp.float32), self.scale.astype(jnp.float32), self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / std * scale + bias over the last axis, in float32 (Ba et al. 2016)."""

    d_model: int
    eps: float = 1e-5
    bias: bool = True

    def setup(self):
        self.scale = parameter(self, "scale", nn.initializers.ones, (self.d_model,), (None,))
        if self.bias:
            self.shift = parameter(self, "shift", nn.initializers.zeros, (self.d_model,), (None,))

    def __call__(self, x):
        """[..., D] -> [..., D] float32."""
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, -1, keepdims=True)
        y = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps) * self.scale.astype(jnp.float32)
        return y + self.shift.astype(jnp.float32) if self.bias else y


class SwiGLU(nn.Module):
    """W_out(up * silu(gate)), no biases (Shazeer 2020). `wi` holds [up, gate] in that order, as in H-Net."""

    d_model: int
    d_ff: int
    out_std: float = 0.02

    def setup(self):
        self.wi = parameter(self, "wi", normal(0.02), (self.d_model, 2, self.d_ff), ("embed", None, "inner"))
        self.wo = parameter(self, "wo", normal(self.out_std), (self.d_ff, self.d_model), ("inner", "embed"))

    def __call__(self, x):
        """[..., D] -> [..., D]."""
        return swiglu(x.astype(self.wi.dtype), self.wi, self.wo)

    @nn.nowrap
    def flops(self):
        """Forward FLOPs per position: 6 d f + 5 d (H-Net, arXiv 2507.07955, appendix B)."""
        return 6 * self.d_model * self.d_ff + 5 * self.d_model
