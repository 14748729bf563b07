"""State space duality: Mamba-2's recurrence as matrix products over chunks (Dao & Gu 2024, arXiv 2405.21060).

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T        y_t = h_t C_t

per head, with h [P, N], one scalar decay per head and position, and B, C shared by all heads (ngroups = 1).

With S the running sum of dt A inside a chunk, M_ij = exp(S_i - S_j) C_i.B_j for j <= i in one document:

    y = M (dt x) + exp(S) h_in C            h_out = exp(S_end) h_in + sum_j exp(S_end - S_j) dt_j x_j B_j^T

Exponents are masked before exp: above the diagonal S_i - S_j is positive and would overflow, and a mask
applied after it turns the gradient into 0 * inf. The backward pass is written out so that no [Q, Q] array
outlives its chunk: decays are computed again, and the gradient of S needs no [Q, Q] reduction, since row and
column sums of M * dM are dy_i.y_i and (dt x)_j.d(dt x)_j.

Shapes: B batch, L length, H heads, P channels per head, N state size, Q chunk, Z chunks.
"""

import functools

import jax
import jax.numpy as jnp


def runs(segment_ids_BL, shape_BL):
    """Documents numbered along each row from 0: one more wherever the segment id changes. Zeros for None."""
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

    Returns (y_BLHP, h_BHPN), float32; `h` is the state after the last position. `h0` belongs to the document
    of the first position.
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

    Products take operands of x's dtype and add up in float32; dt and A are float32. A position with dt = 0
    leaves the state as it is, so right padding is made inert by dt = 0 there and `h` is then the state after
    the last position with dt > 0. Prefill does so with `segment_ids_BL=None`: padding with a segment id of
    its own would be a new document, and reset the state.
    """
    B, L, H, P = x_BLHP.shape
    if h0_BHPN is None:
        h0_BHPN = jnp.zeros((B, H, P, B_BLN.shape[-1]), jnp.float32)
    run_BL = runs(segment_ids_BL, (B, L))
    chunk = min(chunk, L)
    pad = -L % chunk

    def chunks(v_BL, mode="constant"):
        v_BL = jnp.pad(v_BL, ((0, 0), (0, pad), *[(0, 0)] * (v_BL.ndim - 2)), mode=mode)
        return jnp.moveaxis(v_BL.reshape(B, -1, chunk, *v_BL.shape[2:]), 1, 0)

    dtype = x_BLHP.dtype
    y_ZBQHP, h_BNHP = _ssd(
        chunks(x_BLHP),
        chunks(dt_BLH.astype(jnp.float32)),
        A_H.astype(jnp.float32),
        chunks(B_BLN.astype(dtype)),
        chunks(C_BLN.astype(dtype)),
        jnp.moveaxis(h0_BHPN.astype(jnp.float32), 3, 1),
        chunks(run_BL, mode="edge"),
    )
    return jnp.moveaxis(y_ZBQHP, 0, 1).reshape(B, L + pad, H, P)[:, :L], jnp.moveaxis(h_BNHP, 1, 3)


def _dot(spec, a, b):
    """Einsum that adds up in float32."""
    dot = functools.partial(jnp.einsum, spec, preferred_element_type=jnp.float32)
    if a.dtype == jnp.float32:
        return dot(a, b)
    # XLA's CPU back end has no batched product of two bfloat16 arrays with a float32 result.
    return jax.lax.platform_dependent(a, b, cpu=lambda a, b: dot(*map(jnp.float32, (a, b))), default=dot)


def _decays(dt_BQH, A_H, run_BQ, previous_B):
    """Decays between positions [B, H, Q, Q], from the incoming state and to the outgoing one [B, Q, H]."""
    Q = run_BQ.shape[1]
    S_BQH = jnp.cumsum(dt_BQH * A_H, axis=1)
    S_BHQ = jnp.swapaxes(S_BQH, 1, 2)
    mask_BQQ = (run_BQ[:, :, None] == run_BQ[:, None, :]) & jnp.tri(Q, dtype=bool)
    inner_BHQQ = jnp.exp(jnp.where(mask_BQQ[:, None], S_BHQ[..., :, None] - S_BHQ[..., None, :], -jnp.inf))
    enter_BQH = jnp.exp(jnp.where((run_BQ == previous_B[:, None])[..., None], S_BQH, -jnp.inf))
    leave_BQH = jnp.exp(jnp.where((run_BQ == run_BQ[:, -1:])[..., None], S_BQH[:, -1:] - S_BQH, -jnp.inf))
    return inner_BHQQ, enter_BQH, leave_BQH


def _previous(run_ZBQ):
    """The document that each chunk's incoming state belongs to, [Z, B]; of h0, the first position's."""
    return jnp.concatenate([run_ZBQ[:1, :, 0], run_ZBQ[:-1, :, -1]])


def _forward(x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_BNHP, run_ZBQ):
    dtype = x_ZBQHP.dtype

    def body(h_BNHP, inputs):
        x_BQHP, dt_BQH, B_BQN, C_BQN, run_BQ, previous_B = inputs
        inner_BHQQ, enter_BQH, leave_BQH = _decays(dt_BQH, A_H, run_BQ, previous_B)
        u_BQHP = (x_BQHP * dt_BQH[..., None]).astype(dtype)
        M_BHQQ = (inner_BHQQ * _dot("bin,bjn->bij", C_BQN, B_BQN)[:, None]).astype(dtype)
        y_BQHP = jnp.swapaxes(_dot("bhij,bhjp->bhip", M_BHQQ, jnp.swapaxes(u_BQHP, 1, 2)), 1, 2)
        y_BQHP += enter_BQH[..., None] * _dot("bqn,bnhp->bqhp", C_BQN, h_BNHP.astype(dtype))
        u_out_BQHP = (leave_BQH[..., None] * u_BQHP).astype(dtype)
        out_BNHP = enter_BQH[:, -1, None, :, None] * h_BNHP + _dot("bqn,bqhp->bnhp", B_BQN, u_out_BQHP)
        return out_BNHP, (y_BQHP, h_BNHP)

    inputs = (x_ZBQHP, dt_ZBQH, B_ZBQN, C_ZBQN, run_ZBQ, _previous(run_ZBQ))
    h_BNHP, (y_ZBQHP, h_ZBNHP) = jax.lax.scan(body, h_BNHP, inputs)
    return (y_ZBQHP, h_BNHP), (x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_ZBNHP, run_ZBQ, y_ZBQHP)


@jax.custom_vjp
def _ssd(x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_BNHP, run_ZBQ):
    return _forward(x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_BNHP, run_ZBQ)[0]


def _backward(residuals, gradients):
    x_ZBQHP, dt_ZBQH, A_H, B_ZBQN, C_ZBQN, h_ZBNHP, run_ZBQ, y_ZBQHP = residuals
    dy_ZBQHP, dh_BNHP = gradients
    dtype = x_ZBQHP.dtype

    def body(carry, inputs):
        dh_BNHP, dA_H = carry
        x_BQHP, dt_BQH, B_BQN, C_BQN, run_BQ, previous_B, h_BNHP, y_BQHP, dy_BQHP = inputs
        inner_BHQQ, enter_BQH, leave_BQH = _decays(dt_BQH, A_H, run_BQ, previous_B)
        dy_BQHP = dy_BQHP.astype(dtype)
        u_BQHP = (x_BQHP * dt_BQH[..., None]).astype(dtype)
        dy_BHQP, u_BHQP = jnp.swapaxes(dy_BQHP, 1, 2), jnp.swapaxes(u_BQHP, 1, 2)
        dy_in_BQHP = (enter_BQH[..., None] * dy_BQHP).astype(dtype)
        u_out_BQHP = (leave_BQH[..., None] * u_BQHP).astype(dtype)
        h_in_BNHP, dh_out_BNHP = h_BNHP.astype(dtype), dh_BNHP.astype(dtype)

        M_BHQQ = (inner_BHQQ * _dot("bin,bjn->bij", C_BQN, B_BQN)[:, None]).astype(dtype)
        dCB_BQQ = jnp.sum(inner_BHQQ * _dot("bhip,bhjp->bhij", dy_BHQP, u_BHQP), axis=1).astype(dtype)
        dC_BQN = _dot("bij,bjn->bin", dCB_BQQ, B_BQN) + _dot("bqhp,bnhp->bqn", dy_in_BQHP, h_in_BNHP)
        dB_BQN = _dot("bij,bin->bjn", dCB_BQQ, C_BQN) + _dot("bqhp,bnhp->bqn", u_out_BQHP, dh_out_BNHP)
        du_inner_BQHP = jnp.swapaxes(_dot("bhij,bhip->bhjp", M_BHQQ, dy_BHQP), 1, 2)
        du_out_BQHP = leave_BQH[..., None] * _dot("bqn,bnhp->bqhp", B_BQN, dh_out_BNHP)

        # Gradient of S. Its terms cancel, so they must be made of the rounded operands that the products saw.
        kept_BH = enter_BQH[:, -1] * jnp.sum(dh_BNHP * h_BNHP, axis=(1, 3))
        out_BQH = jnp.sum(u_BQHP * du_out_BQHP, axis=3)
        dS_BQH = jnp.sum(dy_BQHP * y_BQHP - u_BQHP * du_inner_BQHP, axis=3) - out_BQH
        dS_BQH = dS_BQH.at[:, -1].add(kept_BH + jnp.sum(out_BQH, axis=1))
        # The decay into t acts on what crosses from t - 1 to t: it gets dS of t and of all that follows in
        # t's document, and nothing where t starts a document.
        earlier_BQ = jnp.concatenate([previous_B[:, None], run_BQ[:, :-1]], axis=1)
        follows_BQQ = (run_BQ[:, :, None] == run_BQ[:, None, :]) & jnp.tri(run_BQ.shape[1], dtype=bool)
        follows_BQQ &= (run_BQ == earlier_BQ)[:, None, :]
        da_BQH = jnp.einsum("bit,bih->bth", follows_BQQ.astype(jnp.float32), dS_BQH, precision="highest")

        du_BQHP = du_inner_BQHP + du_out_BQHP
        dx_BQHP = (du_BQHP * dt_BQH[..., None]).astype(dtype)
        ddt_BQH = jnp.sum(du_BQHP * x_BQHP, axis=3) + da_BQH * A_H
        dA_H += jnp.sum(da_BQH * dt_BQH, axis=(0, 1))
        dh_BNHP = enter_BQH[:, -1, None, :, None] * dh_BNHP + _dot("bqn,bqhp->bnhp", C_BQN, dy_in_BQHP)
        return (dh_BNHP, dA_H), (dx_BQHP, ddt_BQH, dB_BQN.astype(dtype), dC_BQN.astype(dtype))

    inputs = (x_ZBQHP, dt_ZBQH, B_ZBQN, C_ZBQN, run_ZBQ, _previous(run_ZBQ), h_ZBNHP, y_ZBQHP, dy_ZBQHP)
    carry = (dh_BNHP, jnp.zeros_like(A_H))
    (dh_BNHP, dA_H), (dx, ddt, dB, dC) = jax.lax.scan(body, carry, inputs, reverse=True)
    return dx, ddt, dA_H, dB, dC, dh_BNHP, None


_ssd.defvjp(_forward, _backward)
