"""`lmlab.kernels.convolution.causal_conv_silu` as Pallas kernels for TPUs: one pass over memory each way.

A position's `since`, how many earlier positions of its own document there are, at most K - 1, says which taps count:
tap `back` where since >= back. With w_back the weight of the tap that lies `back` positions earlier:

    pre_t = bias + sum_back w_back [since_t >= back] x_{t - back},    y_t = pre_t sigmoid(pre_t)
    dx_t = sum_back w_back [since_{t + back} >= back] dpre_{t + back}

A row's chunks are walked in time order forwards and against it backwards, where pre is computed again from x, and what
the taps need of the chunk before in that order stays in VMEM. In a chunk, groups of 8 positions, the sublanes of a
register, are shifted by rolls: of a group and of its neighbour, joined by a select. So nothing that is masked, or not
yet written, is ever multiplied.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lmlab.kernels.convolution import earlier_positions

CHUNK = 512  # positions of one block at most; a multiple of 128
WIDTH = 1024  # channels of one block at most; a multiple of 128
STEP = 64  # positions of one step of the loops
TAPS = 8  # K at most
GROUP, LANES = 8, 128  # rows and columns of a float32 register
PAIR = 16  # rows of a bfloat16 register: the least that is read of a neighbouring chunk


def causal_conv_silu_tpu(x_BLC, w_KC, bias_C, segment_ids_BL=None, interpret=False):
    """silu of `causal_conv_reference`: [B, L, C] -> [B, L, C]. Any L; C a multiple of 128; K at most 8.

    Segment ids differ between neighbouring documents, as when rows are packed.

    float32 and bfloat16 in and out, as x is, float32 within. `interpret` is `pallas_call`'s: True, or
    `pltpu.InterpretParams`, runs the kernels without a TPU.
    """
    since_BL = earlier_positions(x_BLC, segment_ids_BL, w_KC.shape[0] - 1)
    w_PC = jnp.concatenate([w_KC[::-1], bias_C[None]]).astype(jnp.float32)  # by `back`, then the bias
    return _conv_silu(w_PC, since_BL, x_BLC, interpret)


def _columns(v_Q):
    """[1, Q] -> [Q, LANES], repeated along the lanes."""
    return jnp.broadcast_to(v_Q, (LANES, v_Q.shape[1])).T


def _row():
    return jax.lax.broadcasted_iota(jnp.int32, (GROUP, LANES), 0)


def _for_each_tile(width, body):
    """`body(columns)` for each register's columns."""

    def tile(j, _):
        body(pl.ds(pl.multiple_of(j * LANES, LANES), LANES))

    jax.lax.fori_loop(0, width // LANES, tile, None)


def _weights(w_ref, columns):
    """The rows of w_ref, each repeated along the sublanes."""
    return [jnp.broadcast_to(w_ref[k : k + 1, columns], (GROUP, LANES)) for k in range(w_ref.shape[0])]


def _sigmoid(pre, dtype):
    """In bfloat16, where arithmetic is what takes the time, one instruction: exact to 2^-24 of 1, not of the result."""
    return 0.5 * jnp.tanh(0.5 * pre) + 0.5 if dtype == jnp.bfloat16 else jax.nn.sigmoid(pre)


def _groups(v):
    """[R, LANES] as float32, in groups of 8 rows."""
    return jnp.split(v.astype(jnp.float32), v.shape[0] // GROUP)


def _convolve(x, before, since, w):
    """Of 8 positions and the 8 before them: pre, and the taps, which are 0 across a document's start."""
    *w, pre = w
    taps = [x]
    for back in range(1, len(w)):
        tap = jnp.where(_row() < back, pltpu.roll(before, back, 0), pltpu.roll(x, back, 0))
        taps.append(jnp.where(since >= back, tap, 0.0))
    for w_back, tap in zip(w, taps, strict=True):
        pre = pre + w_back * tap
    return pre, taps


def _forward_kernel(w_ref, since_ref, x_ref, y_ref, since_QK, before_GW):
    """`before_GW`: the last positions of the chunk before. At the row's start it holds anything, and no tap counts."""
    since_QK[...] = _columns(since_ref[0])
    Q, W = x_ref.shape[1:]

    def tile(columns):
        w = _weights(w_ref, columns)

        def step(i, before):
            rows = pl.ds(pl.multiple_of(i * STEP, STEP), STEP)
            y, sinces = [], jnp.split(since_QK[rows, :], STEP // GROUP)
            for x, since in zip(_groups(x_ref[0, rows, columns]), sinces, strict=True):
                pre, _ = _convolve(x, before, since, w)
                y.append(pre * _sigmoid(pre, y_ref.dtype))
                before = x
            y_ref[0, rows, columns] = jnp.concatenate(y).astype(y_ref.dtype)
            return before

        before_GW[:, columns] = jax.lax.fori_loop(0, Q // STEP, step, before_GW[:, columns])

    _for_each_tile(W, tile)


def _backward_kernel(length, w_ref, since_ref, before_ref, x_ref, g_ref, dx_ref, dw_ref, since_QK, later_KGW):
    """`later_KGW`: for each tap, what the first positions of the chunk after add to the gradients before them."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        later_KGW[...] = jnp.zeros_like(later_KGW)
        dw_ref[...] = jnp.zeros_like(dw_ref)

    since_QK[...] = _columns(since_ref[0])
    Q, W = x_ref.shape[1:]
    K = w_ref.shape[0] - 1

    def tile(columns):
        w = _weights(w_ref, columns)

        def step(i, carry):
            later, dw = carry
            i = Q // STEP - 1 - i
            at = pl.multiple_of(i * STEP, STEP)
            rows = pl.ds(at, STEP)
            xs, gs = _groups(x_ref[0, rows, columns]), _groups(g_ref[0, rows, columns])
            since = jnp.split(since_QK[rows, :], STEP // GROUP)
            inside = x_ref[0, pl.ds(pl.multiple_of(jnp.maximum(at - PAIR, 0), PAIR), PAIR), columns]
            before = _groups(jnp.where(i == 0, before_ref[0, :, columns], inside))[1]
            dx = []
            for n in reversed(range(STEP // GROUP)):
                x, g = xs[n], gs[n]
                if length % Q:  # beyond the row's end a block holds anything, and since is -1
                    x, g = jnp.where(since[n] >= 0, x, 0.0), jnp.where(since[n] >= 0, g, 0.0)
                pre, taps = _convolve(x, xs[n - 1] if n else before, since[n], w)
                s = _sigmoid(pre, dx_ref.dtype)
                dpre = g * s * (1 + pre * (1 - s))
                dw = [sums + v for sums, v in zip(dw, [*(dpre * tap for tap in taps), dpre], strict=True)]
                dx_n, rolled = w[0] * dpre, []
                for back in range(1, K):
                    by = GROUP - back
                    rolled.append(pltpu.roll(jnp.where(since[n] >= back, dpre, 0.0), by, 0))
                    dx_n = dx_n + w[back] * jnp.where(_row() < by, rolled[-1], later[back - 1])
                dx, later = [dx_n, *dx], rolled
            dx_ref[0, rows, columns] = jnp.concatenate(dx).astype(dx_ref.dtype)
            return later, dw

        later = [later_KGW[back - 1, :, columns] for back in range(1, K)]
        dw = [jnp.zeros((GROUP, LANES), jnp.float32)] * (K + 1)
        later, dw = jax.lax.fori_loop(0, Q // STEP, step, (later, dw))
        for back in range(1, K):
            later_KGW[back - 1, :, columns] = later[back - 1]
        for k in range(K + 1):
            dw_ref[0, k : k + 1, columns] += jnp.sum(dw[k], axis=0, keepdims=True)

    _for_each_tile(W, tile)


def _plan(x_BLC, P, reverse):
    """(grid, chunk, width, block specs of [P, C], [B, 1, L], [B, L, C], the rows before, and [B, P, C])."""
    B, L, C = x_BLC.shape
    chunk = min(CHUNK, -(-L // LANES) * LANES)
    width = next(w for w in range(min(WIDTH, C), 0, -LANES) if C % w == 0)
    grid = (B, C // width, pl.cdiv(L, chunk))

    def time(z):
        return grid[2] - 1 - z if reverse else z

    specs = (
        pl.BlockSpec((P, width), lambda b, c, z: (0, c)),
        pl.BlockSpec((1, 1, chunk), lambda b, c, z: (b, 0, time(z))),
        pl.BlockSpec((1, chunk, width), lambda b, c, z: (b, time(z), c)),
        pl.BlockSpec((1, PAIR, width), lambda b, c, z: (b, jnp.maximum(time(z) * (chunk // PAIR) - 1, 0), c)),
        pl.BlockSpec((1, P, width), lambda b, c, z: (b, 0, c)),
    )
    return grid, chunk, width, specs


def _to_chunks(since_BL, chunk):
    """[B, L] -> [B, 1, whole chunks], -1 beyond the row's end."""
    return jnp.pad(since_BL, ((0, 0), (0, -since_BL.shape[1] % chunk)), constant_values=-1)[:, None]


_ORDER = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _conv_silu(w_PC, since_BL, x_BLC, interpret):
    P = w_PC.shape[0]
    grid, chunk, width, (of_PC, of_BL, of_BLC, _, _) = _plan(x_BLC, P, reverse=False)
    moved = 2 * x_BLC.nbytes + since_BL.nbytes
    return pl.pallas_call(
        _forward_kernel,
        jax.ShapeDtypeStruct(x_BLC.shape, x_BLC.dtype),
        grid=grid,
        in_specs=[of_PC, of_BL, of_BLC],
        out_specs=of_BLC,
        scratch_shapes=[pltpu.VMEM((chunk, LANES), jnp.int32), pltpu.VMEM((GROUP, width), jnp.float32)],
        compiler_params=_ORDER,
        cost_estimate=pl.CostEstimate(flops=2 * P * x_BLC.size, bytes_accessed=moved, transcendentals=x_BLC.size),
        interpret=interpret,
        name="causal_conv_silu",
    )(w_PC, _to_chunks(since_BL, chunk), x_BLC)


def _forward(w_PC, since_BL, x_BLC, interpret):
    return _conv_silu(w_PC, since_BL, x_BLC, interpret), (w_PC, since_BL, x_BLC)


def _backward(interpret, residuals, g_BLC):
    w_PC, since_BL, x_BLC = residuals
    (B, L, C), P = x_BLC.shape, w_PC.shape[0]
    grid, chunk, width, (of_PC, of_BL, of_BLC, before, of_BPC) = _plan(x_BLC, P, reverse=True)
    moved = 3 * x_BLC.nbytes + since_BL.nbytes
    dx_BLC, dw_BPC = pl.pallas_call(
        functools.partial(_backward_kernel, L),
        [jax.ShapeDtypeStruct(x_BLC.shape, x_BLC.dtype), jax.ShapeDtypeStruct((B, P, C), jnp.float32)],
        grid=grid,
        in_specs=[of_PC, of_BL, before, of_BLC, of_BLC],
        out_specs=[of_BLC, of_BPC],
        scratch_shapes=[
            pltpu.VMEM((chunk, LANES), jnp.int32),
            pltpu.VMEM((max(P - 2, 1), GROUP, width), jnp.float32),
        ],
        compiler_params=_ORDER,
        cost_estimate=pl.CostEstimate(flops=6 * P * x_BLC.size, bytes_accessed=moved, transcendentals=x_BLC.size),
        interpret=interpret,
        name="causal_conv_silu_gradient",
    )(w_PC, _to_chunks(since_BL, chunk), x_BLC, x_BLC, g_BLC)
    return jnp.sum(dw_BPC, axis=0), None, dx_BLC


_conv_silu.defvjp(_forward, _backward)
