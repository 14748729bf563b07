"""State space duality: Mamba-2's recurrence as matrix products over chunks (Dao & Gu 2024, arXiv 2405.21060).

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T        y_t = h_t C_t

per head, with h [P, N], one scalar decay per head and position, and B, C shared by all heads (ngroups = 1).

With S the running sum of dt A inside a chunk, M_ij = exp(S_i - S_j) C_i.B_j for j <= i in one document:

    y = M (dt x) + exp(S) h_in C            h_out = exp(S_end) h_in + sum_j exp(S_end - S_j) dt_j x_j B_j^T

Exponents are masked before exp: above the diagonal S_i - S_j is positive and would overflow, and a mask applied
after it turns the gradient into 0 * inf. The backward pass is written out so that no [Q, Q] array outlives its
chunk: decays are computed again, and the gradient of S needs no [Q, Q] reduction, since row and column sums of
M * dM are dy_i.y_i and (dt x)_j.d(dt x)_j.

Shapes: B batch, L length, H heads, P channels per head, N state size, Q chunk, Z chunks.
"""

import functools

import jax
import jax.numpy as jnp


def runs(segment_ids_BL, shape_BL):
    """Number documents along each row from 0, rising by one wherever the segment id changes; zeros for None."""
    if segment_ids_BL is None:
        return jnp.zeros(shape_BL, jnp.int32)
    change_BL = segment_ids_BL[:, 1:] != segment_ids_BL[:, :-1]
    return jnp.pad(jnp.cumsum(change_BL, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))


def ssd_step(h_BHPN, x_BHP, dt_BH, A_H, B_BN, C_BN):
    """One position of the recurrence, in float32. Returns (y_BHP, h_BHPN)."""
    x_BHP, B_BN, C_BN = (v.astype(jnp.float32) for v in (x_BHP, B_BN, C_BN))
    u_BHP = dt_BH[..., None] * x_BHP
    h_BHPN = jnp.exp(dt_BH * A_H)[..., None, None] * h_BHPN + u_BHP[..., None] * B_BN[:, None, None]
    return jnp.einsum("bhpn,bn->bhp", h_BHPN, C_BN), h_BHPN


def ssd_reference(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, segment_ids_BL=None, h0_BHPN=None):
    """The recurrence, position by position; the state is reset wherever the segment id changes.

    Returns (y_BLHP, h_BHPN), float32; `h` is the state after the last position. `h0` belongs to the document of
    the first position.
    """
    B, L, H, P = x_BLHP.shape
    if h0_BHPN is None:
        h0_BHPN = jnp.zeros((B, H, P, B_BLN.shape[-1]), jnp.float32)
    run_BL = runs(segment_ids_BL, (B, L))
    keep_BL = jnp.pad(run_BL[:, 1:] == run_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True)

    def step(h_BHPN, inputs):
        x_BHP, dt_BH, B_BN, C_BN, keep_B = inputs
        h_BHPN = jnp.where(keep_B[:, None, None, None], h_BHPN, 0)
        y_BHP, h_BHPN = ssd_step(h_BHPN, x_BHP, dt_BH, A_H, B_BN, C_BN)
        return h_BHPN, y_BHP

    inputs = [jnp.moveaxis(v, 1, 0) for v in (x_BLHP, dt_BLH, B_BLN, C_BLN, keep_BL)]
    h_BHPN, y_LBHP = jax.lax.scan(step, h0_BHPN, inputs)
    return jnp.moveaxis(y_LBHP, 0, 1), h_BHPN


def ssd(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, segment_ids_BL=None, h0_BHPN=None, chunk=64):
    """`ssd_reference` over chunks of `chunk` positions; any L.

    Products take operands of x's dtype and add up in float32; dt and A are float32. A position with dt = 0 leaves
    the state as it is, so right padding is made inert by dt = 0 there and `h` is then the state after the last
    position with dt > 0. Prefill does so with `segment_ids_BL=None`: padding with a segment id of its own would
    be a new document, and reset the state.
    """
    B, L, H, P = x_BLHP.shape
    if h0_BHPN is None:
        h0_BHPN = jnp.zeros((B, H, P, B_BLN.shape[-1]), jnp.float32)
    run_BL = runs(segment_ids_BL, (B, L))
    pad = -L % chunk

    def chunks(v_BL, mode="constant"):
        v_BL = jnp.pad(v_BL, ((0, 0), (0, pad), *[(0, 0)] * (v_BL.ndim - 2)), mode=mode)
        return jnp.moveaxis(v_BL.reshape(B, -1, chunk, *v_BL.shape[2:]), 1, 0)

    dtype = x_BLHP.dtype
    y_ZBQHP, h_BHPN = _ssd(
        chunks(x_BLHP),
        chunks(dt_BLH.astype(jnp.float32)),
        A_H.astype(jnp.float32),
        chunks(B_BLN.astype(dtype)),
        chunks(C_BLN.astype(dtype)),
        h0_BHPN.astype(jnp.float32),
        chunks(run_BL, mode="edge"),
    )
    return jnp.moveaxis(y_ZBQHP, 0, 1).reshape(B, L + pad, H, P)[:, :L], h_BHPN


_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _decays(dt_BQH, A_H, run_BQ, previous_B):
    """Decays within a chunk: from position to position, from the incoming state, to the outgoing state."""
    Q = run_BQ.shape[1]
    S_BHQ = jnp.cumsum(jnp.moveaxis(dt_BQH * A_H, 2, 1), axis=2)
    mask_BQQ = (run_BQ[:, :, None] == run_BQ[:, None, :]) & jnp.tri(Q, dtype=bool)
    inner_BHQQ = jnp.exp(jnp.where(mask_BQQ[:, None], S_BHQ[..., :, None] - S_BHQ[..., None, :], -jnp.inf))
    enter_BHQ = jnp.exp(jnp.where((run_BQ == previous_B[:, None])[:, None], S_BHQ, -jnp.inf))
    leave_BHQ = jnp.exp(jnp.where((run_BQ == run_BQ[:, -1:])[:, None], S_BHQ[..., -1:] - S_BHQ, -jnp.inf))
    return inner_BHQQ, enter_BHQ, leave_BHQ


def _previous(run_ZBQ):
    """The document that each chunk's incoming state belongs to, [Z, B]; the first chunk's own at the start."""
    return jnp.concatenate([run_ZBQ[:1, :, 0], run_ZBQ[:-1, :, -1]])


def _forward(x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_BHPN, run_ZBQ):
    dtype = x_ZBQHP.dtype

    def body(h_BHPN, inputs):
        x_BQHP, dt_BQH, B_BQN, C_BQN, run_BQ, previous_B = inputs
        inner_BHQQ, enter_BHQ, leave_BHQ = _decays(dt_BQH, A_H, run_BQ, previous_B)
        u_BHQP = jnp.moveaxis(x_BQHP * dt_BQH[..., None], 2, 1)
        M_BHQQ = inner_BHQQ * _dot("bin,bjn->bij", C_BQN, B_BQN)[:, None]
        y_BHQP = _dot("bhij,bhjp->bhip", M_BHQQ.astype(dtype), u_BHQP.astype(dtype))
        y_BHQP += enter_BHQ[..., None] * _dot("bhpn,bqn->bhqp", h_BHPN.astype(dtype), C_BQN)
        out_BHPN = enter_BHQ[..., -1, None, None] * h_BHPN
        out_BHPN += _dot("bhqp,bqn->bhpn", (leave_BHQ[..., None] * u_BHQP).astype(dtype), B_BQN)
        return out_BHPN, (jnp.moveaxis(y_BHQP, 1, 2), h_BHPN)

    inputs = (x_ZBQHP, dt_ZBQH, B_ZBQN, C_ZBQN, run_ZBQ, _previous(run_ZBQ))
    h_BHPN, (y_ZBQHP, h_ZBHPN) = jax.lax.scan(body, h_BHPN, inputs)
    return (y_ZBQHP, h_BHPN), (x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_ZBHPN, run_ZBQ, y_ZBQHP)


@jax.custom_vjp
def _ssd(x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_BHPN, run_ZBQ):
    return _forward(x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_BHPN, run_ZBQ)[0]


def _backward(residuals, gradients):
    x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_ZBHPN, run_ZBQ, y_ZBQHP = residuals
    dy_ZBQHP, dh_BHPN = gradients
    dtype = x_ZBQHP.dtype

    def body(carry, inputs):
        dh_BHPN, dA_H = carry
        x_BQHP, dt_BQH, B_BQN, C_BQN, run_BQ, previous_B, h_BHPN, y_BQHP, dy_BQHP = inputs
        inner_BHQQ, enter_BHQ, leave_BHQ = _decays(dt_BQH, A_H, run_BQ, previous_B)
        u_BHQP = jnp.moveaxis(x_BQHP * dt_BQH[..., None], 2, 1).astype(dtype)
        dy_BHQP = jnp.moveaxis(dy_BQHP, 2, 1).astype(dtype)
        h_in_BHPN, dh_out_BHPN = h_BHPN.astype(dtype), dh_BHPN.astype(dtype)

        M_BHQQ = (inner_BHQQ * _dot("bin,bjn->bij", C_BQN, B_BQN)[:, None]).astype(dtype)
        dCB_BQQ = jnp.sum(inner_BHQQ * _dot("bhip,bhjp->bhij", dy_BHQP, u_BHQP), axis=1).astype(dtype)
        du_BHQP = _dot("bhij,bhip->bhjp", M_BHQQ, dy_BHQP)
        du_out_BHQP = leave_BHQ[..., None] * _dot("bhpn,bqn->bhqp", dh_out_BHPN, B_BQN)
        dy_in_BHQP = (enter_BHQ[..., None] * dy_BHQP).astype(dtype)
        u_out_BHQP = (leave_BHQ[..., None] * u_BHQP).astype(dtype)
        dC_BQN = _dot("bij,bjn->bin", dCB_BQQ, B_BQN) + _dot("bhqp,bhpn->bqn", dy_in_BHQP, h_in_BHPN)
        dB_BQN = _dot("bij,bin->bjn", dCB_BQQ, C_BQN) + _dot("bhqp,bhpn->bqn", u_out_BHQP, dh_out_BHPN)

        # Gradient of S: products must be of the very operands that went into the sums above, as they cancel.
        carried_BH = enter_BHQ[..., -1] * jnp.sum(dh_BHPN * h_BHPN, axis=(2, 3))
        out_BHQ = jnp.sum(u_BHQP * du_out_BHQP, axis=3)
        dS_BHQ = jnp.sum(dy_BHQP * jnp.moveaxis(y_BQHP, 2, 1) - u_BHQP * du_BHQP, axis=3) - out_BHQ
        dS_BHQ = dS_BHQ.at[..., -1].add(carried_BH + jnp.sum(out_BHQ, axis=2))
        # The decay into position t is used by pairs that straddle it: sum dS over t and what follows in its
        # document. A document's first decay straddles nothing.
        earlier_BQ = jnp.concatenate([previous_B[:, None], run_BQ[:, :-1]], axis=1)
        after_BQQ = (run_BQ[:, :, None] == run_BQ[:, None, :]) & jnp.tri(run_BQ.shape[1], dtype=bool)
        after_BQQ &= (run_BQ == earlier_BQ)[:, None, :]
        da_BQH = jnp.einsum("bhi,bit->bth", dS_BHQ, after_BQQ.astype(jnp.float32), precision="highest")

        du_BQHP = jnp.moveaxis(du_BHQP + du_out_BHQP, 1, 2)
        ddt_BQH = jnp.sum(du_BQHP * x_BQHP, axis=3) + da_BQH * A_H
        dA_H += jnp.sum(da_BQH * dt_BQH, axis=(0, 1))
        dh_BHPN = enter_BHQ[..., -1, None, None] * dh_BHPN + _dot("bhqp,bqn->bhpn", dy_in_BHQP, C_BQN)
        dx_BQHP = (du_BQHP * dt_BQH[..., None]).astype(dtype)
        return (dh_BHPN, dA_H), (dx_BQHP, ddt_BQH, dB_BQN.astype(dtype), dC_BQN.astype(dtype))

    inputs = (x_ZBQHP, dt_ZBQH, B_ZBQN, C_ZBQN, run_ZBQ, _previous(run_ZBQ), h_ZBHPN, y_ZBQHP, dy_ZBQHP)
    (dh_BHPN, dA_H), (dx, ddt, dB, dC) = jax.lax.scan(body, (dh_BHPN, jnp.zeros_like(A_H)), inputs, reverse=True)
    return dx, ddt, dA_H, dB, dC, dh_BHPN, None


_ssd.defvjp(_forward, _backward)
