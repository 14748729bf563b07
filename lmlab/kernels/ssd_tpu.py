"""`lmlab.kernels.ssd` (arXiv 2405.21060) as Pallas kernels for TPUs: one pass over memory forwards, one backwards.

The grid is (row, chunk, block of heads), walked in time order or against it, with the states of all heads in VMEM.
What heads share, C B^T and the masks, is computed at a chunk's first block, and the gradients of B and C add up in
VMEM until its last. The forward pass stores each chunk's incoming state, in x's dtype, and the backward pass computes
the rest again without need of y, so no [Q, Q] array leaves the chip.

Channels are folded, D = H P, and taken in tiles of 128 lanes, which hold 128 / P heads: a tile is multiplied by each
of its heads' [Q, Q] matrices, and every lane keeps its own head's product. Quantities per head and position are rows
[heads, Q] in memory and where they are summed over time, and columns where they scale channels.

Backwards the [Q, Q] arrays are [source, target], so M^T dy needs no transpose. The gradient of S is the sum of M * dM
over sources less its sum over targets, dt x.(M^T dy), as well as what the states give. The two almost cancel, so both
take M as rounded for the product.

Shapes: B batch, L length, H heads, P channels per head, N state size, Q chunk, Z chunks, K blocks of heads,
J heads and W = J P channels of a block, T channels of a tile.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lmlab.kernels.ssd import runs

WIDTH = 1024  # channels of one block at most, if H is a multiple of 8
LANES = 128  # columns of a register


def ssd_tpu(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, segment_ids_BL=None, h0_BHPN=None, chunk=128, interpret=False):
    """`ssd` by TPU kernels, resets and initial state included: (y_BLHP, h_BHPN), float32, any L.

    A TPU needs `chunk` to be a multiple of 128, and P of 128 or a divisor of it. The gradient stores L / chunk states
    in x's dtype; VMEM holds one for all heads four times in float32. `interpret` is `pallas_call`'s: True, or
    `pltpu.InterpretParams`, runs the kernels without a TPU.
    """
    B, L, H, P = x_BLHP.shape
    N, dtype = B_BLN.shape[-1], x_BLHP.dtype
    J = _heads(H, P)
    Q = min(chunk, -(-L // LANES) * LANES)
    pad = ((0, 0), (0, -L % Q))
    if h0_BHPN is None:
        h_BKNW = jnp.zeros((B, H // J, N, J * P), jnp.float32)
    else:
        h_BKNW = jnp.moveaxis(h0_BHPN.astype(jnp.float32).reshape(B, H // J, J * P, N), 3, 2)
    run_BL = runs(segment_ids_BL, (B, L))
    ids_B2L = jnp.stack([run_BL, jnp.concatenate([run_BL[:, :1], run_BL[:, :-1]], axis=1)], axis=1)
    y_BLD, h_BKNW = _ssd(
        x_BLHP.reshape(B, L, H * P),
        jnp.swapaxes(jnp.pad(dt_BLH.astype(jnp.float32), (*pad, (0, 0))), 1, 2),
        A_H.astype(jnp.float32),
        B_BLN.astype(dtype),
        C_BLN.astype(dtype),
        h_BKNW,
        jnp.pad(ids_B2L, (pad[0], *pad), mode="edge"),
        (P, J, Q, interpret),
    )
    return y_BLD.reshape(B, L, H, P), jnp.moveaxis(h_BKNW, 2, 3).reshape(B, H, P, N)


def _heads(H, P):
    """Heads of a block: all; if H is a multiple of 8, its largest divisor of that kind with at most WIDTH channels."""
    if H % 8:
        return H
    return max((j for j in range(8, H + 1, 8) if H % j == 0 and j * P <= WIDTH), default=8)


def _dot(a, b, contract=(1, 0), **kwargs):
    """Product over dimension contract[0] of `a` and contract[1] of `b`, in float32."""
    numbers = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, numbers, preferred_element_type=jnp.float32, **kwargs)


def _fill(columns_QJ, j):
    """A column in all lanes: [Q, LANES]."""
    return jnp.broadcast_to(columns_QJ[:, j : j + 1], (columns_QJ.shape[0], LANES))


def _wide(v_QK, width):
    """[Q, LANES], alike in all lanes, to another number of lanes."""
    copies = -(-width // LANES)
    v_QK = v_QK if copies == 1 else jnp.concatenate([v_QK] * copies, axis=1)
    return v_QK if v_QK.shape[1] == width else v_QK[:, :width]


def _bias(seen):
    """Added to an exponent: exp is then 0 where nothing is seen, and never overflows."""
    return jnp.where(seen, 0.0, -1e30)


def _shared(ids_2Q, transposed, inner_QQ, enter_QK, leave_QK):
    """The biases that all heads share: between positions, [target, source] or transposed, from the incoming state and
    to the outgoing one."""
    Q = ids_2Q.shape[1]
    run_1Q, earlier_1Q = ids_2Q[:1].astype(jnp.float32), ids_2Q[1:].astype(jnp.float32)
    run_QK = _fill(jnp.broadcast_to(run_1Q, (8, Q)).T, 0)
    row_QQ, column_QQ = (jax.lax.broadcasted_iota(jnp.int32, (Q, Q), d) for d in (0, 1))
    causal_QQ = row_QQ <= column_QQ if transposed else row_QQ >= column_QQ
    inner_QQ[...] = _bias(causal_QQ & (_wide(run_QK, Q) == run_1Q))
    enter_QK[...] = _bias(run_QK == earlier_1Q[:, :1])
    leave_QK[...] = _bias(run_QK == run_1Q[:, Q - 1 :])


def _sums(dt_JQ, A_J1):
    """S as rows."""
    Q = dt_JQ.shape[1]
    row_QQ, column_QQ = (jax.lax.broadcasted_iota(jnp.int32, (Q, Q), d) for d in (0, 1))
    return _dot(dt_JQ * A_J1, (row_QQ <= column_QQ).astype(jnp.float32), precision="highest")


def _tiles(P, J):
    """(lanes, heads) of each tile."""
    group = max(1, LANES // P)
    return [(slice(j * P, min(j + group, J) * P), range(j, min(j + group, J))) for j in range(0, J, group)]


def _own(P, lane, g):
    """Does a lane of a tile belong to its g-th head?"""
    return (lane >= g * P) & (lane < (g + 1) * P)


def _spread(P, values):
    """A [Q, T] for each head of a tile -> [Q, T]: each lane takes its head's."""
    out_QT, *rest = values
    lane_QT = jax.lax.broadcasted_iota(jnp.int32, out_QT.shape, 1)
    for g, value in enumerate(rest, 1):
        out_QT = jnp.where(lane_QT >= g * P, value, out_QT)
    return out_QT


def _head_rows(P, v_QT, pieces):
    """Sums over the channels of each head, as rows [8 or more, Q]. A product with ones sums the lanes and turns the
    result; bfloat16 pieces, each the rest of the one before, keep its operand's digits."""
    T = v_QT.shape[1]
    shape = (-(-T // P // 8) * 8, T)
    head, lane = (jax.lax.broadcasted_iota(jnp.int32, shape, d) for d in (0, 1))
    ones = jnp.where(_own(P, lane, head), 1.0, 0.0).astype(jnp.bfloat16)
    total = 0
    for _ in range(pieces):
        piece = v_QT.astype(jnp.bfloat16)
        v_QT = v_QT - piece.astype(jnp.float32)
        total = total + _dot(ones, piece, (1, 1))
    return total


def _reader(length, Q, z):
    """Reads a block's rows, with zeros for those beyond the end of the sequence, where a block holds anything."""
    if length % Q == 0:
        return lambda v: v
    row_Q1 = jax.lax.broadcasted_iota(jnp.int32, (Q, 1), 0)
    return lambda v: jnp.where(row_Q1 < length - z * Q, v, jnp.zeros_like(v))


def _forward_kernel(P, length, save, ids_ref, dt_ref, A_ref, x_ref, B_ref, C_ref, h0_ref, y_ref, h_ref, *rest):
    saved_ref, (CB_QQ, Bt_NQ, inner_QQ, enter_QK, leave_QK) = (rest[0], rest[1:]) if save else (None, rest)
    z, k = pl.program_id(1), pl.program_id(2)
    dtype, (J, Q) = x_ref.dtype, dt_ref.shape[1:]
    read = _reader(length, Q, z)
    C_QN = read(C_ref[0])

    @pl.when(z == 0)
    def _():
        h_ref[0, k] = h0_ref[0, k]

    @pl.when(k == 0)
    def _():
        B_QN = read(B_ref[0])
        CB_QQ[...] = _dot(C_QN, B_QN, (1, 1))
        Bt_NQ[...] = B_QN.T
        _shared(ids_ref[0], False, inner_QQ, enter_QK, leave_QK)

    S_JQ = _sums(dt_ref[0], A_ref[...])
    S_QJ, dt_QJ = S_JQ.T, dt_ref[0].T
    for lanes, heads in _tiles(P, J):
        T = lanes.stop - lanes.start
        S_QK, dt_QK = ([_fill(v, j) for j in heads] for v in (S_QJ, dt_QJ))
        S_QT, dt_QT = (_spread(P, [_wide(v, T) for v in values]) for values in (S_QK, dt_QK))
        enter_QT = jnp.exp(S_QT + _wide(enter_QK[...], T))
        leave_QT = jnp.exp(S_QT[Q - 1 :] - S_QT + _wide(leave_QK[...], T))
        h_NT = h_ref[0, k, :, lanes]
        if save:
            saved_ref[0, 0, 0, :, lanes] = h_NT.astype(dtype)
        u_QT = (read(x_ref[0, :, lanes]) * dt_QT).astype(dtype)
        parts = []
        for g, j in enumerate(heads):
            M_QQ = jnp.exp(_wide(S_QK[g], Q) - S_JQ[j : j + 1] + inner_QQ[...]) * CB_QQ[...]
            parts.append(_dot(M_QQ.astype(dtype), u_QT))
        y_ref[0, :, lanes] = _spread(P, parts) + enter_QT * _dot(C_QN, h_NT.astype(dtype))
        h_ref[0, k, :, lanes] = enter_QT[Q - 1 :] * h_NT + _dot(Bt_NQ[...], (leave_QT * u_QT).astype(dtype))


def _backward_kernel(P, length, ids_ref, dt_ref, A_ref, x_ref, B_ref, C_ref, saved_ref, dy_ref, dlast_ref, *rest):
    dx_ref, ddt_ref, da_ref, dB_ref, dC_ref, dh_ref, *rest = rest
    BC_QQ, Ct_NQ, inner_QQ, enter_QK, leave_QK, dBC_QQ, dB_QN, dC_QN = rest
    k = pl.program_id(2)
    z = pl.num_programs(1) - 1 - pl.program_id(1)
    dtype, (J, Q) = x_ref.dtype, dt_ref.shape[1:]
    narrow = dtype == jnp.bfloat16
    read = _reader(length, Q, z)
    B_QN, C_QN = read(B_ref[0]), read(C_ref[0])

    @pl.when(pl.program_id(1) == 0)
    def _():
        dh_ref[0, k] = dlast_ref[0, k]

    @pl.when(k == 0)
    def _():
        BC_QQ[...] = _dot(B_QN, C_QN, (1, 1))
        Ct_NQ[...] = C_QN.T
        _shared(ids_ref[0], True, inner_QQ, enter_QK, leave_QK)
        for ref in (dBC_QQ, dB_QN, dC_QN):
            ref[...] = jnp.zeros_like(ref)

    dt_JQ = dt_ref[0]
    S_JQ = _sums(dt_JQ, A_ref[...])
    S_QJ, dt_QJ = S_JQ.T, dt_JQ.T
    inner, du_x, entered, last = [], [], [], []
    for lanes, heads in _tiles(P, J):
        T, G = lanes.stop - lanes.start, len(heads)
        S_QK, dt_QK = ([_fill(v, j) for j in heads] for v in (S_QJ, dt_QJ))
        S_QT, dt_QT = (_spread(P, [_wide(v, T) for v in values]) for values in (S_QK, dt_QK))
        enter_QT = jnp.exp(S_QT + _wide(enter_QK[...], T))
        leave_QT = jnp.exp(S_QT[Q - 1 :] - S_QT + _wide(leave_QK[...], T))
        lane_QT = jax.lax.broadcasted_iota(jnp.int32, (Q, T), 1)
        x_QT, dy_QT = read(x_ref[0, :, lanes]), read(dy_ref[0, :, lanes])
        h_NT, dh_NT = saved_ref[0, 0, 0, :, lanes], dh_ref[0, k, :, lanes]
        out_NT = dh_NT.astype(dtype)
        entered_QT = enter_QT * dy_QT
        dy_in_QT, dy_QT = entered_QT.astype(dtype), dy_QT.astype(dtype)
        x_dt_QT = x_QT * dt_QT
        du_out_QT = leave_QT * _dot(B_QN, out_NT)
        dB_QN[...] += _dot((leave_QT * x_dt_QT).astype(dtype), out_NT, (1, 1))
        dC_QN[...] += _dot(dy_in_QT, h_NT, (1, 1))
        parts = []
        for g, j in enumerate(heads):
            decay_QQ = jnp.exp(S_JQ[j : j + 1] - _wide(S_QK[g], Q) + inner_QQ[...])
            M_QQ = (decay_QQ * BC_QQ[...]).astype(dtype)
            parts.append(_dot(M_QQ, dy_QT))
            x_own_QT = jnp.where(_own(P, lane_QT, g), x_QT, jnp.zeros_like(x_QT)) if G > 1 else x_QT
            du_QQ = _wide(dt_QK[g], Q) * _dot(x_own_QT, dy_QT, (1, 1))
            dBC_QQ[...] += decay_QQ * du_QQ
            inner.append(jnp.sum(M_QQ * du_QQ, axis=0, keepdims=True))
        du_QT = _spread(P, parts) + du_out_QT
        dx_ref[0, :, lanes] = (du_QT * dt_QT).astype(dtype)
        dh_ref[0, k, :, lanes] = enter_QT[Q - 1 :] * dh_NT + _dot(Ct_NQ[...], dy_in_QT)
        du_x.append(_head_rows(P, x_QT * du_QT, 2 if narrow else 3)[:G])
        entered.append(_head_rows(P, entered_QT * _dot(C_QN, h_NT), 1 if narrow else 3)[:G])
        kept_1T = enter_QT[Q - 1 :] * jnp.sum(dh_NT * h_NT, axis=0, keepdims=True)
        last_1T = kept_1T + jnp.sum(x_dt_QT * du_out_QT, axis=0, keepdims=True)
        own = [jnp.where(_own(P, lane_QT[:1], g), last_1T, 0.0) for g in range(G)]
        last += [jnp.sum(v, axis=1, keepdims=True) for v in own]

    du_x_JQ, entered_JQ, inner_JQ, last_J1 = (jnp.concatenate(v, axis=0) for v in (du_x, entered, inner, last))
    dS_JQ = inner_JQ + entered_JQ - dt_JQ * du_x_JQ
    dS_JQ += jnp.where(jax.lax.broadcasted_iota(jnp.int32, (J, Q), 1) == Q - 1, last_J1, 0.0)
    # The decay into t gets dS of t and of all that follows in t's document, and nothing where t starts one.
    seen_QQ = (inner_QQ[...] == 0).astype(jnp.float32)
    da_JQ = _dot(dS_JQ, seen_QQ, (1, 1), precision="highest")
    da_ref[0] = jnp.where(ids_ref[0, :1] == ids_ref[0, 1:], da_JQ, 0.0)
    ddt_ref[0] = du_x_JQ

    @pl.when(k == pl.num_programs(2) - 1)
    def _():
        dBC_rounded = dBC_QQ[...].astype(dtype)
        dB_ref[0] = (dB_QN[...] + _dot(dBC_rounded, C_QN)).astype(dtype)
        dC_ref[0] = (dC_QN[...] + _dot(dBC_rounded, B_QN, (0, 0))).astype(dtype)


def _call(kernel, name, operands, results, scratch, products, config, reverse=False):
    """`pallas_call` of `operands`, [(block, array)], to `results`, [(block, shape, dtype)].

    `products`: multiply-adds per position and channel, (as multiples of Q, of N). `scratch`: beside what heads share.
    """
    P, J, Q, interpret = config
    x_BLD, N = next(v for block, v in operands if block == "x"), dict(operands)["B"].shape[-1]
    (B, L, D), dtype = x_BLD.shape, x_BLD.dtype
    Z, K, W = pl.cdiv(L, Q), D // (J * P), J * P

    def time(z):
        return Z - 1 - z if reverse else z

    blocks = {
        "ids": pl.BlockSpec((1, 2, Q), lambda b, z, k: (b, 0, time(z))),
        "dt": pl.BlockSpec((1, J, Q), lambda b, z, k: (b, k, time(z))),
        "A": pl.BlockSpec((J, 1), lambda b, z, k: (k, 0)),
        "x": pl.BlockSpec((1, Q, W), lambda b, z, k: (b, time(z), k)),
        "B": pl.BlockSpec((1, Q, N), lambda b, z, k: (b, time(z), 0)),
        "h": pl.BlockSpec((1, K, N, W), lambda b, z, k: (b, 0, 0, 0)),
        "saved": pl.BlockSpec((1, 1, 1, N, W), lambda b, z, k: (b, time(z), k, 0, 0)),
    }
    shared = [((Q, Q), jnp.float32), ((N, Q), dtype), ((Q, Q), jnp.float32), *[((Q, LANES), jnp.float32)] * 2]
    shapes = [jax.ShapeDtypeStruct(*result) for _, *result in results]
    moved = sum(math.prod(v.shape) * v.dtype.itemsize for v in [*shapes, *(v for _, v in operands)])
    flops = 2 * B * L * D * (products[0] * Q + products[1] * N)
    return pl.pallas_call(
        kernel,
        shapes,
        grid=(B, Z, K),
        in_specs=[blocks[block] for block, _ in operands],
        out_specs=[blocks[block] for block, *_ in results],
        scratch_shapes=[pltpu.VMEM(*s) for s in [*shared, *((shape, jnp.float32) for shape in scratch)]],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=32 << 20,  # of at least 64 MiB; float32 chunks of 256 need more than the default 16
        ),
        cost_estimate=pl.CostEstimate(
            flops=flops, bytes_accessed=moved, transcendentals=B * L * D * (2 * P + Q) // P
        ),
        interpret=interpret,
        name=name,
    )(*(v for _, v in operands))


def _run(x_BLD, dt_BHL, A_H, B_BLN, C_BLN, h_BKNW, ids_B2L, config, save):
    """[y, last state] and, to save, each chunk's incoming state."""
    P, _, Q, _ = config
    (B, L, _), (K, N, W) = x_BLD.shape, h_BKNW.shape[1:]
    operands = zip(
        ("ids", "dt", "A", "x", "B", "B", "h"),
        (ids_B2L, dt_BHL, A_H[:, None], x_BLD, B_BLN, C_BLN, h_BKNW),
        strict=True,
    )
    results = [("x", x_BLD.shape, jnp.float32), ("h", h_BKNW.shape, jnp.float32)]
    if save:
        results.append(("saved", (B, pl.cdiv(L, Q), K, N, W), x_BLD.dtype))
    kernel = functools.partial(_forward_kernel, P, L, save)
    return _call(kernel, "ssd", list(operands), results, [], (1, 2), config)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _ssd(x_BLD, dt_BHL, A_H, B_BLN, C_BLN, h_BKNW, ids_B2L, config):
    return tuple(_run(x_BLD, dt_BHL, A_H, B_BLN, C_BLN, h_BKNW, ids_B2L, config, save=False))


def _forward(x_BLD, dt_BHL, A_H, B_BLN, C_BLN, h_BKNW, ids_B2L, config):
    *out, saved_BZKNW = _run(x_BLD, dt_BHL, A_H, B_BLN, C_BLN, h_BKNW, ids_B2L, config, save=True)
    return tuple(out), (x_BLD, dt_BHL, A_H, B_BLN, C_BLN, saved_BZKNW, ids_B2L)


def _backward(config, residuals, gradients):
    x_BLD, dt_BHL, A_H, B_BLN, C_BLN, saved_BZKNW, ids_B2L = residuals
    dy_BLD, dh_BKNW = gradients
    P, _, Q, _ = config
    N, dtype = B_BLN.shape[-1], x_BLD.dtype
    operands = zip(
        ("ids", "dt", "A", "x", "B", "B", "saved", "x", "h"),
        (ids_B2L, dt_BHL, A_H[:, None], x_BLD, B_BLN, C_BLN, saved_BZKNW, dy_BLD, dh_BKNW),
        strict=True,
    )
    results = [("x", x_BLD.shape, dtype), *[("dt", dt_BHL.shape, jnp.float32)] * 2]
    results += [*[("B", B_BLN.shape, dtype)] * 2, ("h", dh_BKNW.shape, jnp.float32)]
    kernel, scratch = functools.partial(_backward_kernel, P, x_BLD.shape[1]), [(Q, Q), (Q, N), (Q, N)]
    dx_BLD, ddt_BHL, da_BHL, dB_BLN, dC_BLN, dh_BKNW = _call(
        kernel, "ssd_gradient", list(operands), results, scratch, (2, 5), config, reverse=True
    )
    ddt_BHL += da_BHL * A_H[:, None]
    return dx_BLD, ddt_BHL, jnp.sum(da_BHL * dt_BHL, axis=(0, 2)), dB_BLN, dC_BLN, dh_BKNW, None


_ssd.defvjp(_forward, _backward)
