"""Mamba-2 mixer (Dao & Gu 2024, arXiv 2405.21060), one group, as in H-Net's isotropic stacks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.convolution import causal_conv_state, causal_conv_step
from lmlab.kernels.dispatch import causal_conv_silu, ssd
from lmlab.kernels.elementwise import linear, rms_norm
from lmlab.kernels.ssd import ssd_step
from lmlab.models.cache import put, take
from lmlab.models.layers import normal, parameter


def _uniform(bound):
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _a_log(key, shape, dtype):
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


def _dt_bias(key, shape, dtype):
    """softplus^{-1} of a log-uniform time step in [1e-3, 0.1], floored at 1e-4."""
    dt = jnp.exp(jax.random.uniform(key, shape, dtype, jnp.log(1e-3), jnp.log(0.1)))
    dt = jnp.maximum(dt, 1e-4)
    return dt + jnp.log(-jnp.expm1(-dt))


class Mamba2(nn.Module):
    """[B, L, D] -> [B, L, D]; the state and the convolution start anew in every segment."""

    d_model: int
    d_state: int = 128
    d_conv: int = 4
    expand: int = 2
    head_dim: int = 64
    out_std: float = 0.02
    chunk: int = 64  # positions per chunk of the SSD

    part = "mamba"  # what its FLOPs are counted as

    @property
    def d_inner(self):
        """Width after expansion."""
        return self.expand * self.d_model

    @property
    def n_heads(self):
        """SSM heads."""
        return self.d_inner // self.head_dim

    def setup(self):
        D, E, N, H, K = self.d_model, self.d_inner, self.d_state, self.n_heads, self.d_conv
        if E % self.head_dim:
            raise UserError(f"Mamba-2's inner width {E} (of width {D}) is no multiple of its heads' {self.head_dim}.")
        conv = _uniform(K**-0.5)  # PyTorch's default for a depthwise Conv1d, which the original keeps
        ones = nn.initializers.ones
        self.in_proj = parameter(self, "in_proj", normal(0.02), (D, 2 * E + 2 * N + H), ("embed", "inner"))
        self.conv_kernel = parameter(self, "conv_kernel", conv, (K, E + 2 * N), (None, "inner"))
        self.conv_bias = parameter(self, "conv_bias", conv, (E + 2 * N,), ("inner",))
        self.dt_bias = parameter(self, "dt_bias", _dt_bias, (H,), (None,))
        self.A_log = parameter(self, "A_log", _a_log, (H,), (None,))
        self.D = parameter(self, "D", ones, (H,), (None,))
        self.norm = parameter(self, "norm", ones, (E,), (None,))
        self.out_proj = parameter(self, "out_proj", normal(self.out_std), (E, D), ("inner", "embed"))

    def _project(self, x):
        """[..., D] -> z [..., E], xBC [..., E + 2N] (before the convolution), dt [..., H] float32."""
        E, N = self.d_inner, self.d_state
        z, xbc, dt = jnp.split(linear(x.astype(self.in_proj.dtype), self.in_proj), [E, 2 * E + 2 * N], axis=-1)
        return z, xbc, nn.softplus(dt.astype(jnp.float32) + self.dt_bias)

    def _split(self, xbc):
        """After the convolution and silu: x [..., H, P], B [..., N], C [..., N]."""
        E, N = self.d_inner, self.d_state
        x, b, c = jnp.split(xbc, [E, E + N], axis=-1)
        return x.reshape(*x.shape[:-1], self.n_heads, self.head_dim), b, c

    def _a(self):
        return -jnp.exp(self.A_log.astype(jnp.float32))

    def _out(self, y, x, z):
        """Skip D x, gate, RMSNorm after the gate, output projection."""
        y = y + self.D[:, None] * x.astype(jnp.float32)
        y = y.reshape(*y.shape[:-2], self.d_inner) * nn.silu(z.astype(jnp.float32))
        return linear(rms_norm(y, self.norm, 1e-5).astype(self.out_proj.dtype), self.out_proj)

    def __call__(self, x_BLD, segment_ids_BL):
        """Packed rows."""
        z, xbc, dt = self._project(x_BLD)
        x, b, c = self._split(causal_conv_silu(xbc, self.conv_kernel, self.conv_bias, segment_ids_BL))
        y, _ = ssd(x, dt, self._a(), b, c, segment_ids_BL, chunk=self.chunk)
        return self._out(y, x, z)

    @nn.nowrap
    def init_cache(self, batch, length, dtype=jnp.float32):
        """The last inputs of the convolution and the float32 SSM state; neither grows with `length`."""
        return {
            "conv": jnp.zeros((batch, self.d_conv, self.d_inner + 2 * self.d_state), dtype),
            "ssm": jnp.zeros((batch, self.n_heads, self.head_dim, self.d_state), jnp.float32),
        }

    def prefill(self, x_BLD, valid_BL, cache):
        """Right-padded continuations of what the cache has seen: (y_BLD, cache behind each valid prefix)."""
        z, xbc, dt = self._project(x_BLD)
        x, b, c = self._split(causal_conv_silu(xbc, self.conv_kernel, self.conv_bias, state_BKC=cache["conv"]))
        dt = jnp.where(valid_BL[..., None], dt, 0)  # no decay and no input: padding leaves the state as it is
        y, state = ssd(x, dt, self._a(), b, c, h0_BHPN=cache["ssm"], chunk=self.chunk)
        conv = causal_conv_state(cache["conv"], xbc, jnp.sum(valid_BL, axis=1))
        return self._out(y, x, z), {"conv": conv, "ssm": state}

    def step(self, x_BD, cache, active_B, row_B=None):
        """One position for the active rows; the cache of the others does not change. `row_B`: see `Stack.step`."""
        old = take(cache, row_B)
        z, xbc, dt = self._project(x_BD)
        xbc, conv = causal_conv_step(old["conv"], xbc, self.conv_kernel, self.conv_bias)
        x, b, c = self._split(nn.silu(xbc))
        y, state = ssd_step(old["ssm"], x, dt, self._a(), b, c)
        return self._out(y, x, z), put(cache, {"conv": conv, "ssm": state}, active_B, row_B)

    @nn.nowrap
    def emptied(self, cache, empty_B, row_B=None):
        """The cache, with nothing seen in the rows `empty_B`."""
        return put(cache, jax.tree.map(jnp.zeros_like, take(cache, row_B)), empty_B, row_B)

    @nn.nowrap
    def flops(self, length):
        """Forward FLOPs per position (H-Net, arXiv 2507.07955, appendix B, with the output projection at its
        true size, `expand` times the printed one)."""
        d, e, n = self.d_model, self.expand, self.d_state
        projections = 4 * e * d * d + 2 * d * (2 * n + self.n_heads) + 2 * e * d * d
        return projections + 6 * e * d * n + 2 * d * self.d_conv + 5 * d
