"""`lmlab.kernels.scan` as Pallas kernels for TPUs: one pass over memory forwards and one backwards.

Each kernel walks the chunks of a row in time order, or against it, with the state in VMEM. In a chunk, groups of 8
positions, the sublanes of a register, are solved by three doubling steps, whose coefficients are running products of
the decays, and take the state of the group before by a fourth. Decays are multiplied, never divided nor taken from
sums of logs, so a = 0 needs no care. The vector unit does this in less time than the matrix unit would need for
float32 products, and both in less than the copies from memory.

Backwards, with n_t = a_{t+1} (n_{L-1} = 0): db_t = g_t + n_t db_{t+1}, and e_t = <db_{t+1}, h_t> is da_{t+1}. So a
chunk needs nothing of the one before it.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

CHUNK = 256  # positions of one block at most; a multiple of 128
WIDTH = 1024  # channels of one block at most; a multiple of 128
GROUP, LANES = 8, 128  # rows and columns of a float32 register


def linear_scan_tpu(a_BL, b_BLD, h0_BD=None, interpret=False):
    """`linear_scan_reference`: [B, L], [B, L, D] -> h [B, L, D] float32. Any L and D.

    `interpret` is `pallas_call`'s: True, or `pltpu.InterpretParams`, runs the kernels without a TPU.
    """
    a_BL, b_BLD = a_BL.astype(jnp.float32), b_BLD.astype(jnp.float32)
    h0_BD = jnp.zeros_like(b_BLD[:, 0]) if h0_BD is None else h0_BD.astype(jnp.float32)
    return _scan(a_BL, b_BLD, h0_BD, interpret)


def _tiles(width):
    """Slices of at most a register's columns."""
    return [slice(i, min(i + LANES, width)) for i in range(0, width, LANES)]


def _coefficients(a_GK, row_GK, reverse):
    """Of one group: (shift, coefficient) of each doubling step, and of the state that enters it.

    a_GK repeats the decay between a position and the one before it (reversed: after it) along the lanes.
    """
    steps = []
    for shift in (1, 2, 4):
        inside = row_GK < GROUP - shift if reverse else row_GK >= shift
        by = GROUP - shift if reverse else shift
        steps.append((by, jnp.where(inside, a_GK, 0.0)))
        a_GK = a_GK * jnp.where(inside, pltpu.roll(a_GK, by, 0), 1.0)
    return steps, a_GK


def _columns(a_Q):
    """[1, Q] -> [Q, LANES], repeated along the lanes."""
    return jnp.broadcast_to(a_Q, (LANES, a_Q.shape[1])).T


def _forward_kernel(length, a_ref, b_ref, h0_ref, h_ref, a_QK, state_D):
    @pl.when(pl.program_id(2) == 0)
    def _():
        state_D[...] = h0_ref[0]

    a_QK[...] = _columns(a_ref[0])
    row_GK = jax.lax.broadcasted_iota(jnp.int32, (GROUP, LANES), 0)
    Q, D = b_ref.shape[1:]
    at_L = pl.program_id(2) * Q  # the position of the chunk's first row
    tiles = _tiles(D)

    def group(i, states):
        rows = pl.ds(pl.multiple_of(i * GROUP, GROUP), GROUP)
        valid_GK = row_GK < length - at_L - i * GROUP  # beyond the row's end a block holds anything
        steps, enter_GK = _coefficients(jnp.where(valid_GK, a_QK[rows, :], 0.0), row_GK, reverse=False)
        last = []
        for tile, state in zip(tiles, states, strict=True):
            h, k = b_ref[0, rows, tile], slice(0, tile.stop - tile.start)
            h = jnp.where(valid_GK[:, k], h, 0.0) if length % Q else h
            for by, c_GK in steps:
                h = h + c_GK[:, k] * pltpu.roll(h, by, 0)
            h = h + enter_GK[:, k] * state
            h_ref[0, rows, tile] = h
            last.append(h[GROUP - 1 :])
        return last

    last = jax.lax.fori_loop(0, Q // GROUP, group, [state_D[:, tile] for tile in tiles])
    for tile, state in zip(tiles, last, strict=True):
        state_D[:, tile] = state


def _backward_kernel(length, width, n_ref, g_ref, h_ref, db_ref, e_ref, n_QK, e_QK, state_D):
    @pl.when(pl.program_id(2) == 0)
    def _():
        state_D[...] = jnp.zeros_like(state_D)

    Q, D = g_ref.shape[1:]
    at_L = (pl.num_programs(2) - 1 - pl.program_id(2)) * Q
    at_D = pl.program_id(1) * D
    n_QK[...] = _columns(n_ref[0])
    row_GK = jax.lax.broadcasted_iota(jnp.int32, (GROUP, LANES), 0)
    column_GK = jax.lax.broadcasted_iota(jnp.int32, (GROUP, LANES), 1)
    tiles = _tiles(D)

    def group(i, states):
        i = Q // GROUP - 1 - i
        rows = pl.ds(pl.multiple_of(i * GROUP, GROUP), GROUP)
        valid_GK = row_GK < length - at_L - i * GROUP
        steps, enter_GK = _coefficients(jnp.where(valid_GK, n_QK[rows, :], 0.0), row_GK, reverse=True)
        first, e_GK = [], jnp.zeros((GROUP, LANES), jnp.float32)
        for tile, state in zip(tiles, states, strict=True):
            k = slice(0, tile.stop - tile.start)
            mask = valid_GK & (column_GK < width - at_D - tile.start) if width % D else valid_GK
            db = jnp.where(mask[:, k], g_ref[0, rows, tile], 0.0)
            for by, c_GK in steps:
                db = db + c_GK[:, k] * pltpu.roll(db, by, 0)
            db = db + enter_GK[:, k] * state
            db_ref[0, rows, tile] = db
            after = jnp.where(row_GK[:, k] == GROUP - 1, state, pltpu.roll(db, GROUP - 1, 0))
            e = jnp.where(mask[:, k], after * h_ref[0, rows, tile], 0.0)
            e_GK = e_GK + jnp.pad(e, ((0, 0), (0, LANES - e.shape[1])))
            first.append(db[:1])
        e_QK[rows, :] = e_GK
        return first

    first = jax.lax.fori_loop(0, Q // GROUP, group, [state_D[:, tile] for tile in tiles])
    for tile, state in zip(tiles, first, strict=True):
        state_D[:, tile] = state
    ones = jnp.ones((GROUP, LANES), jnp.float32)  # a product sums the lanes and turns the column into a row
    e_ref[0, 0] = jax.lax.dot_general(ones, e_QK[...], (((1,), (1,)), ((), ())), precision="highest")[:1]


def _plan(B, L, D, reverse):
    """(grid, chunk, width, block specs of [B, 1, L], [B, L, D], [B, 1, D] and [D blocks, B, 1, L])."""
    chunk, width = min(CHUNK, -(-L // LANES) * LANES), min(WIDTH, D)
    grid = (B, pl.cdiv(D, width), pl.cdiv(L, chunk))

    def time(z):
        return grid[2] - 1 - z if reverse else z

    specs = (
        pl.BlockSpec((1, 1, chunk), lambda b, d, z: (b, 0, time(z))),
        pl.BlockSpec((1, chunk, width), lambda b, d, z: (b, time(z), d)),
        pl.BlockSpec((1, 1, width), lambda b, d, z: (b, 0, d)),
        pl.BlockSpec((1, 1, 1, chunk), lambda b, d, z: (d, b, 0, time(z))),
    )
    return grid, chunk, width, specs


_ORDER = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _scan(a_BL, b_BLD, h0_BD, interpret):
    B, L, D = b_BLD.shape
    grid, chunk, width, (of_BL, of_BLD, of_BD, _) = _plan(B, L, D, reverse=False)
    return pl.pallas_call(
        functools.partial(_forward_kernel, L),
        jax.ShapeDtypeStruct((B, L, D), jnp.float32),
        grid=grid,
        in_specs=[of_BL, of_BLD, of_BD],
        out_specs=of_BLD,
        scratch_shapes=[pltpu.VMEM((chunk, LANES), jnp.float32), pltpu.VMEM((1, width), jnp.float32)],
        compiler_params=_ORDER,
        cost_estimate=pl.CostEstimate(flops=8 * B * L * D, bytes_accessed=4 * B * L * (2 * D + 1), transcendentals=0),
        interpret=interpret,
        name="linear_scan",
    )(a_BL[:, None], b_BLD, h0_BD[:, None])


def _forward(a_BL, b_BLD, h0_BD, interpret):
    h_BLD = _scan(a_BL, b_BLD, h0_BD, interpret)
    return h_BLD, (a_BL, h0_BD, h_BLD)


def _backward(interpret, residuals, g_BLD):
    a_BL, h0_BD, h_BLD = residuals
    B, L, D = h_BLD.shape
    grid, chunk, width, (of_BL, of_BLD, _, of_ZBL) = _plan(B, L, D, reverse=True)
    next_BL = jnp.pad(a_BL[:, 1:], ((0, 0), (0, 1)))
    db_BLD, e_ZBL = pl.pallas_call(
        functools.partial(_backward_kernel, L, D),
        [jax.ShapeDtypeStruct((B, L, D), jnp.float32), jax.ShapeDtypeStruct((grid[1], B, 1, L), jnp.float32)],
        grid=grid,
        in_specs=[of_BL, of_BLD, of_BLD],
        out_specs=[of_BLD, of_ZBL],
        scratch_shapes=[
            pltpu.VMEM((chunk, LANES), jnp.float32),
            pltpu.VMEM((chunk, LANES), jnp.float32),
            pltpu.VMEM((1, width), jnp.float32),
        ],
        compiler_params=_ORDER,
        cost_estimate=pl.CostEstimate(flops=10 * B * L * D, bytes_accessed=4 * B * L * (3 * D + 2), transcendentals=0),
        interpret=interpret,
        name="linear_scan_gradient",
    )(next_BL[:, None], g_BLD, h_BLD)
    first_B1 = jnp.sum(db_BLD[:, 0] * h0_BD, axis=1, keepdims=True)
    da_BL = jnp.concatenate([first_B1, jnp.sum(e_ZBL[:, :, 0, :-1], axis=0)], axis=1)
    return da_BL, db_BLD, a_BL[:, :1] * db_BLD[:, 0]


_scan.defvjp(_forward, _backward)
