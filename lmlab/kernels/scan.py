"""Linear recurrence h_t = a_t h_{t-1} + b_t with one decay per position; a_t = 0 resets it."""

import jax
import jax.numpy as jnp


def linear_scan_reference(a_BL, b_BLD):
    """Step by step: [B, L], [B, L, D] -> h [B, L, D], h_{-1} = 0."""

    def step(h_BD, ab):
        h_BD = ab[0][:, None] * h_BD + ab[1]
        return h_BD, h_BD

    _, h_LBD = jax.lax.scan(step, jnp.zeros_like(b_BLD[:, 0]), (a_BL.T, jnp.swapaxes(b_BLD, 0, 1)))
    return jnp.swapaxes(h_LBD, 0, 1)


def _scan(a_BL, b_BLD, reverse=False):
    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    return jax.lax.associative_scan(combine, (a_BL[..., None], b_BLD), reverse=reverse, axis=1)[1]


@jax.custom_vjp
def linear_scan(a_BL, b_BLD):
    """`linear_scan_reference` in O(log L) passes. Its gradient is the same recurrence run backwards:
    db_t = g_t + a_{t+1} db_{t+1},  da_t = <db_t, h_{t-1}>."""
    return _scan(a_BL, b_BLD)


def _fwd(a_BL, b_BLD):
    h_BLD = _scan(a_BL, b_BLD)
    return h_BLD, (a_BL, h_BLD)


def _bwd(residuals, g_BLD):
    a_BL, h_BLD = residuals
    after_BL = jnp.pad(a_BL[:, 1:], ((0, 0), (0, 1)))
    db_BLD = _scan(after_BL, g_BLD, reverse=True)
    before_BLD = jnp.pad(h_BLD[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return jnp.sum(db_BLD * before_BLD, axis=-1), db_BLD


linear_scan.defvjp(_fwd, _bwd)
