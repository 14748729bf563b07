"""Small functions that XLA's CPU back end would otherwise compile badly, each beside its plain form."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from lmlab.kernels.dispatch import on_cpu, positions_are_split


def _merged(x):
    """[..., D] -> [N, D], unless that would merge axes that are split over devices."""
    return x if positions_are_split() else x.reshape(-1, x.shape[-1])


def rounded(x, dtype):
    """The values of x as `dtype` has them, in the dtype of x; the gradient passes as it is. XLA leaves out a cast there
    and back."""
    bits = jnp.finfo(dtype)
    return x + jax.lax.stop_gradient(jax.lax.reduce_precision(x, bits.nexp, bits.nmant) - x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weight:
    """A float32 weight whose products run in `dtype`: `linear`, `swiglu` and `embed` cast it inside.

    Its gradient then leaves the product in float32. Of a weight that was cast outside, XLA rounds what each device
    holds of the gradient, and adds up over devices what is left.
    """

    value: jax.Array
    dtype: Any = dataclasses.field(metadata={"static": True})

    @property
    def shape(self):
        """Of the value."""
        return self.value.shape

    @property
    def T(self):
        """Transposed."""
        return Weight(self.value.T, self.dtype)

    def reshape(self, *shape):
        """In another shape."""
        return Weight(self.value.reshape(*shape), self.dtype)

    def astype(self, dtype):
        """A plain copy, of the values that products see: in a wider dtype too they are rounded."""
        return self.value.astype(dtype) if dtype == self.dtype else rounded(self.value, self.dtype).astype(dtype)

    def __jax_array__(self):
        """For what is not a product of these functions: the weight as it was cast outside."""
        return self.value.astype(self.dtype)

    def __getitem__(self, at):
        """Part of the copy."""
        return self.value.astype(self.dtype)[at]


def _value(w):
    return w.value if isinstance(w, Weight) else w


def weight_gradient(x, g):
    """x^T g, [..., D], [..., F] -> [D, F], accumulated in float32 whatever the operands.

    Of two transposed products, that whose left operand is the narrower took 0.55 to 0.96 of the other's time on a CPU
    (D from 2 F to 4 F, one core, jax 0.10.2); without the barrier, XLA turns it back.
    """
    all_but_last = tuple(range(x.ndim - 1))

    def product(a, b):
        return jax.lax.dot_general(a, b, ((all_but_last, all_but_last), ((), ())), preferred_element_type=jnp.float32)

    if x.shape[-1] >= 2 * g.shape[-1] and on_cpu():
        return jax.lax.optimization_barrier(product(g, x)).T
    return product(x, g)


def linear(x, w):
    """x @ w, [..., D] with [D, F], in the dtype of x, as one product of matrices: for the weight gradient of a product
    with more leading axes, XLA's CPU back end writes a transposed copy of the cotangent, at many times the product's
    cost."""
    return _linear(x, _value(w))


@jax.custom_vjp
def _linear(x, w):
    return _linear_fwd(x, w)[0]


def _linear_fwd(x, w):
    return (_merged(x) @ w.astype(x.dtype)).reshape(*x.shape[:-1], w.shape[-1]), (x, w)


def _linear_bwd(residuals, g):
    x, w = residuals
    g2 = _merged(g)
    dw = weight_gradient(_merged(x), g2)
    return (g2 @ w.astype(x.dtype).T).reshape(x.shape), dw.astype(w.dtype)


_linear.defvjp(_linear_fwd, _linear_bwd)


def rms_norm(x, scale, eps):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def swiglu_reference(x, wi, wo):
    """(up * silu(gate)) wo with [up, gate] = x wi: [..., D], [D, 2, F], [F, D] -> [..., D]."""
    return ((x @ wi[:, 0]) * jax.nn.silu(x @ wi[:, 1])) @ wo


def swiglu(x, wi, wo):
    """`swiglu_reference` in the dtype of x, keeping only up and gate for the backward pass."""
    return _swiglu(x, _value(wi), _value(wo))


@jax.custom_vjp
def _swiglu(x, wi, wo):
    return _swiglu_fwd(x, wi, wo)[0]


def _swiglu_fwd(x, given_wi, given_wo):
    wi, wo = given_wi.astype(x.dtype), given_wo.astype(x.dtype)
    D, _, F = wi.shape
    if x.size < wi.size:  # decoding: copying the two slices of wi would cost more than the products
        up, gate = jnp.split(x @ wi.reshape(D, 2 * F), 2, axis=-1)
    else:
        up, gate = x @ wi[:, 0], x @ wi[:, 1]
    return (up * jax.nn.silu(gate)) @ wo, (x, up, gate, given_wi, given_wo)


def _swiglu_bwd(residuals, g):
    x, up, gate, given_wi, given_wo = residuals
    wi, wo = given_wi.astype(x.dtype), given_wo.astype(x.dtype)
    x, up, gate, g = (_merged(v) for v in (x, up, gate, g))
    s = jax.nn.sigmoid(gate)
    silu, dh = gate * s, g @ wo.T
    # XLA's CPU back end transposes one operand of each weight gradient, and would fuse what makes the operand
    # into the transposition, which then reads all of its inputs against the grain.
    h, dup, dgate = jax.lax.optimization_barrier((up * silu, dh * silu, dh * up * (s + silu * (1 - s))))
    dx = dup @ wi[:, 0].T + dgate @ wi[:, 1].T
    dwi = jnp.stack([weight_gradient(x, dup), weight_gradient(x, dgate)], axis=1).astype(given_wi.dtype)
    return dx.reshape(*residuals[0].shape), dwi, weight_gradient(h, g).astype(given_wo.dtype)


_swiglu.defvjp(_swiglu_fwd, _swiglu_bwd)


def softmax_cross_entropy_reference(logits_BLV, targets_BL):
    """-log softmax(logits)[target], nats per position, [B, L] float32."""
    log_p = jax.nn.log_softmax(logits_BLV.astype(jnp.float32))
    return -jnp.take_along_axis(log_p, targets_BL[..., None], axis=-1)[..., 0]


@jax.custom_vjp
def softmax_cross_entropy(logits_BLV, targets_BL):
    """`softmax_cross_entropy_reference` with gradient softmax - onehot in one pass, no scatter."""
    return _xent_fwd(logits_BLV, targets_BL)[0]


def _xent_fwd(logits_BLV, targets_BL):
    logits_BLV = logits_BLV.astype(jnp.float32)
    lse_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    picked_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    return lse_BL - picked_BL, (logits_BLV, lse_BL, targets_BL)


def _xent_bwd(residuals, g_BL):
    logits_BLV, lse_BL, targets_BL = residuals
    p_BLV = jnp.exp(logits_BLV - lse_BL[..., None])
    onehot_BLV = targets_BL[..., None] == jnp.arange(logits_BLV.shape[-1])
    return (p_BLV - onehot_BLV) * g_BL[..., None], None


softmax_cross_entropy.defvjp(_xent_fwd, _xent_bwd)


def embed(table_VD, tokens_BL):
    """Rows of the table. The gradient of a small vocabulary is a one-hot matrix product, of a large one a scatter."""
    return _embed(table_VD.dtype, _value(table_VD), tokens_BL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _embed(dtype, table_VD, tokens_BL):
    return _embed_fwd(dtype, table_VD, tokens_BL)[0]


def _embed_fwd(dtype, table_VD, tokens_BL):
    return table_VD.astype(dtype)[tokens_BL], (tokens_BL, table_VD)


def _embed_bwd(dtype, residuals, g_BLD):
    tokens_BL, table_VD = residuals
    V, D = table_VD.shape
    tokens, g = (tokens_BL, g_BLD) if positions_are_split() else (tokens_BL.reshape(-1), g_BLD.reshape(-1, D))
    if V <= 1024:
        onehot = jax.nn.one_hot(tokens, V, dtype=g.dtype)
        return weight_gradient(onehot, g).astype(table_VD.dtype), None
    return jnp.zeros((V, D), jnp.float32).at[tokens].add(g.astype(jnp.float32)).astype(table_VD.dtype), None


_embed.defvjp(_embed_fwd, _embed_bwd)
