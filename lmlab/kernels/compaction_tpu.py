"""`lmlab.kernels.compaction` as Pallas kernels for TPUs. Each touches the rows that it needs about once.

- gather: one copy per kept row from HBM, a block of slots ahead of the block at work. Two rows of bfloat16 share the
  words of memory, so there a pair is copied and half of it kept: 3 rows of traffic per slot, where float32 has 2.
- spread, and gather's gradient, which is a masked spread: 8 positions in a row need at most 8 slots in a row. Those
  come from two registers by a permutation of their sublanes, so values are moved and never multiplied.
- spread's gradient: a product with a matrix of zeros and ones sums the positions of each slot in float32. float32
  values are split into three bfloat16 parts, which together hold all of their bits.

Slots do not fall along a row, and rise by at most one per position, so a block of positions needs no more slots than
it has positions: one even and one odd block of slots, each fetched once.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

GATHERED = 128  # slots of one block of gather
BLOCK = 256  # positions, and slots, of one block of the others
PART = 128  # positions of one product
WIDTH = 1024  # channels of one block at most
GROUP, LANES = 8, 128  # rows and columns of a float32 register

_ORDER = ("parallel", "parallel", "arbitrary")


def gather_tpu(x_BLD, c, interpret=False):
    """`gather_reference`: [B, L, D] -> [B, C, D], float32 or bfloat16. `c` is as `compact` makes it.

    `interpret` is `pallas_call`'s: True, or `pltpu.InterpretParams`, runs the kernels without a TPU.
    """
    return _gather(x_BLD, c, interpret)


def spread_tpu(z_BCD, c, interpret=False):
    """`spread_reference`: [B, C, D] -> [B, L, D], float32 or bfloat16, as `gather_tpu`. Gradients add in float32."""
    return _spread(z_BCD, c, interpret)


def _width(D):
    """Channels of one block: D, or its largest divisor of whole registers up to WIDTH."""
    if D <= WIDTH:
        return D
    return next((w for w in range(WIDTH, 0, -LANES) if D % w == 0), D)


# gather


def _gather_kernel(count_ref, index_ref, next_ref, x_ref, index_R, o_ref, rows_2RD, semaphores):
    b, d, i = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    R, W = o_ref.shape[1:]
    packed = rows_2RD.dtype == jnp.uint32
    source_ref = x_ref if x_ref.dtype == rows_2RD.dtype else x_ref.bitcast(jnp.uint32)
    columns = pl.ds(pl.multiple_of(d * W, LANES), W) if W % LANES == 0 else slice(None)

    def filled(block):
        """Slots of a block that hold a chunk."""
        return jnp.clip(count_ref[b] - block * R, 0, R)

    def copy(row, slot, buffer):
        row = row >> 1 if packed else row
        source = source_ref.at[b, pl.ds(row, 1), columns]
        return pltpu.make_async_copy(source, rows_2RD.at[buffer, pl.ds(slot, 1)], semaphores.at[buffer])

    def start(ref, block, buffer):
        def group(j, _):
            for k in range(GROUP):
                copy(ref[0, 0, j * GROUP + k], j * GROUP + k, buffer).start()
            return _

        def single(j, _):
            copy(ref[0, 0, j], j, buffer).start()
            return _

        n = filled(block)
        jax.lax.fori_loop(0, n >> 3, group, 0)
        jax.lax.fori_loop((n >> 3) << 3, n, single, 0)

    @pl.when(i == 0)
    def _():
        start(index_ref, 0, 0)

    @pl.when(i + 1 < pl.num_programs(2))
    def _():
        start(next_ref, i + 1, (i + 1) & 1)

    buffer, n = i & 1, filled(i)
    whole = (n == R) & (W % LANES == 0)  # no padding between the rows

    @pl.when(whole)
    def _():  # a wait counts bytes: one for all the rows
        rows = rows_2RD.at[buffer]
        pltpu.make_async_copy(rows, rows, semaphores.at[buffer]).wait()

    @pl.when(jnp.logical_not(whole))
    def _():
        def single(j, _):
            copy(0, j, buffer).wait()
            return _

        jax.lax.fori_loop(0, n, single, 0)

    filled_R1 = jax.lax.broadcasted_iota(jnp.int32, (R, 1), 0) < n
    rows_RD = rows_2RD[buffer]
    if packed:  # of words, the even row is the low half
        odd_R1 = (_columns(index_R[0])[:, :1] & 1) == 1
        rows_RD = jnp.where(odd_R1, rows_RD & jnp.uint32(0xFFFF0000), rows_RD << 16)
        rows_RD = jax.lax.bitcast_convert_type(rows_RD, jnp.float32)
    o_ref[0] = jnp.where(filled_R1, rows_RD, 0.0).astype(o_ref.dtype)


def _columns(v_Q):
    """[1, Q] -> [Q, LANES], repeated along the lanes."""
    return jnp.broadcast_to(v_Q, (LANES, v_Q.shape[1])).T


def _pairs(x_BLD):
    """Rows 2i and 2i + 1 of bfloat16 in the low and high halves of uint32, as they lie in a TPU's memory."""
    x_BPDQ = jnp.swapaxes(x_BLD.reshape(x_BLD.shape[0], -1, 2, x_BLD.shape[2]), 2, 3)
    return jax.lax.bitcast_convert_type(x_BPDQ, jnp.uint32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gather(x_BLD, c, interpret):
    (B, L, D), C = x_BLD.shape, c.index_BC.shape[1]
    R, W = GATHERED, _width(D)
    dtype = x_BLD.dtype
    packed = dtype == jnp.bfloat16
    if packed:
        x_BLD = jnp.pad(x_BLD, ((0, 0), (0, L % 2), (0, 0)))
        x_BLD = _pairs(x_BLD) if isinstance(interpret, pltpu.InterpretParams) else x_BLD  # it has no bitcast of refs
    blocks = pl.cdiv(C, R)
    index_B1C = jnp.pad(c.index_BC, ((0, 0), (0, -C % R)))[:, None]
    count_B = jnp.sum(c.valid_BC, axis=1, dtype=jnp.int32)
    return pl.pallas_call(
        _gather_kernel,
        jax.ShapeDtypeStruct((B, C, D), dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, D // W, blocks),
            in_specs=[
                pl.BlockSpec((1, 1, R), lambda b, d, i, _: (b, 0, i), memory_space=pltpu.SMEM),
                pl.BlockSpec(
                    (1, 1, R), lambda b, d, i, _: (b, 0, jnp.minimum(i + 1, blocks - 1)), memory_space=pltpu.SMEM
                ),
                pl.BlockSpec(memory_space=pl.ANY),
                pl.BlockSpec((1, 1, R), lambda b, d, i, _: (b, 0, i)),
            ],
            out_specs=pl.BlockSpec((1, R, W), lambda b, d, i, _: (b, i, d)),
            scratch_shapes=[
                pltpu.VMEM((2, R, W), jnp.uint32 if packed else dtype),
                pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=_ORDER, disable_bounds_checks=True),
        interpret=interpret,
        name="gather",
    )(count_B, index_B1C, index_B1C, x_BLD, index_B1C)


def _gather_forward(x_BLD, c, interpret):
    return _gather(x_BLD, c, interpret), c


def _gather_backward(interpret, c, g_BCD):
    return _spread_rows(g_BCD, c.slot_BL, jnp.where(c.kept_BL, c.slot_BL, -1), interpret, "gather_gradient"), None


_gather.defvjp(_gather_forward, _gather_backward)


# spread


def _spread_kernel(first_ref, slot_ref, code_ref, even_ref, odd_ref, o_ref, ring_ZW, code_TK):
    """o[t] = z[code[t]], zeros where code[t] < 0. The ring holds slot s in row s % (2 BLOCK)."""
    b, i = pl.program_id(0), pl.program_id(2)
    T, W = o_ref.shape[1:]
    now, before = first_ref[b, i], first_ref[b, jnp.maximum(i - 1, 0)]
    for ref, half in ((even_ref, 0), (odd_ref, 1)):

        @pl.when((i == 0) | (_half_block(now, half) != _half_block(before, half)))
        def _(ref=ref, half=half):
            ring_ZW[half * BLOCK : (half + 1) * BLOCK] = ref[0].astype(jnp.float32)

    code_TK[...] = _columns(code_ref[0])
    rows = 2 * GROUP if o_ref.dtype == jnp.bfloat16 else GROUP  # of one register of the output

    def group(j, _):
        at = pl.multiple_of(j * rows, rows)
        parts = []
        for k in range(0, rows, GROUP):
            base = slot_ref[0, 0, at + k] & -GROUP
            windows = [pl.ds(pl.multiple_of((base + s) & (2 * BLOCK - 1), GROUP), GROUP) for s in (0, GROUP)]
            code_GK = code_TK[pl.ds(pl.multiple_of(at + k, GROUP), GROUP), :]
            parts.append((windows, code_GK, code_GK - base))
        for tile in [slice(n, min(n + LANES, W)) for n in range(0, W, LANES)]:
            out = []
            for windows, code_GK, at_GK in parts:
                code_GK, at_GK = (v[:, : tile.stop - tile.start] for v in (code_GK, at_GK))
                low, high = (jnp.take_along_axis(ring_ZW[w, tile], at_GK & (GROUP - 1), axis=0) for w in windows)
                out.append(jnp.where(code_GK < 0, 0.0, jnp.where(at_GK < GROUP, low, high)))
            out = out[0] if len(out) == 1 else jnp.concatenate(out, axis=0)
            o_ref[0, pl.ds(at, rows), tile] = out.astype(o_ref.dtype)
        return _

    jax.lax.fori_loop(0, T // rows, group, 0)


def _half_block(block, half):
    """The even (half 0) or odd (1) one of blocks `block` and `block + 1`."""
    return block + ((block + half) & 1)


def _spread_rows(z_BCD, slot_BL, code_BL, interpret, name):
    (B, C, D), L = z_BCD.shape, slot_BL.shape[1]
    T, W = BLOCK, _width(D)
    blocks = pl.cdiv(L, T)
    slot_B1L, code_B1L = (jnp.pad(v, ((0, 0), (0, -L % T)))[:, None] for v in (slot_BL, code_BL))
    first_BZ = slot_BL[:, ::T] // BLOCK

    def block_of(half):
        def index(b, d, i, first_ref):
            return b, jnp.minimum(_half_block(first_ref[b, i], half), pl.cdiv(C, BLOCK) - 1), d

        return pl.BlockSpec((1, BLOCK, W), index)

    return pl.pallas_call(
        _spread_kernel,
        jax.ShapeDtypeStruct((B, L, D), z_BCD.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, D // W, blocks),
            in_specs=[
                pl.BlockSpec((1, 1, T), lambda b, d, i, _: (b, 0, i), memory_space=pltpu.SMEM),
                pl.BlockSpec((1, 1, T), lambda b, d, i, _: (b, 0, i)),
                block_of(0),
                block_of(1),
            ],
            out_specs=pl.BlockSpec((1, T, W), lambda b, d, i, _: (b, i, d)),
            scratch_shapes=[pltpu.VMEM((2 * BLOCK, W), jnp.float32), pltpu.VMEM((T, LANES), jnp.int32)],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=_ORDER),
        interpret=interpret,
        name=name,
    )(first_BZ, slot_B1L, code_B1L, z_BCD, z_BCD)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spread(z_BCD, c, interpret):
    return _spread_rows(z_BCD, c.slot_BL, c.slot_BL, interpret, "spread")


def _spread_forward(z_BCD, c, interpret):
    return _spread(z_BCD, c, interpret), c


# spread's gradient


def _parts(v):
    """bfloat16 arrays that add up to `v` exactly, but for bits below the smallest normal number."""
    if v.dtype == jnp.bfloat16:
        return [v]
    parts = []
    for _ in range(3):
        bits = jax.lax.bitcast_convert_type(v, jnp.uint32) & jnp.uint32(0xFFFF0000)
        top = jax.lax.bitcast_convert_type(bits, jnp.float32)
        parts.append(top.astype(jnp.bfloat16))
        v = v - top
    return parts


def _sum_kernel(length, block_ref, slot_ref, row_ref, g_ref, o_ref, sum_ZW):
    """The sums of slots from block_ref[b, i] BLOCK on; a block is written in the last step that names it."""
    b, i, steps = pl.program_id(0), pl.program_id(2), pl.num_programs(2)
    T = g_ref.shape[1]
    now = block_ref[b, i]

    @pl.when(i == 0)
    def _():
        sum_ZW[...] = jnp.zeros_like(sum_ZW)

    @pl.when((i > 0) & (now != block_ref[b, jnp.maximum(i - 1, 0)]))
    def _():
        sum_ZW[:BLOCK] = sum_ZW[BLOCK : 2 * BLOCK]
        sum_ZW[BLOCK:] = jnp.zeros_like(sum_ZW[BLOCK:])

    for k in range(0, T, PART):

        @pl.when(i * T + k < length)
        def _(k=k):
            base = pl.multiple_of((slot_ref[0, 0, k] - now * BLOCK) & -GROUP, GROUP)
            slot_1P = row_ref[0, :, k : k + PART] - (now * BLOCK + base)
            here = jax.lax.broadcasted_iota(jnp.int32, (PART + GROUP, PART), 0) == slot_1P
            g_PW = g_ref[0, k : k + PART]
            if length % T:  # beyond the row's end a block holds anything
                row_P1 = jax.lax.broadcasted_iota(jnp.int32, (PART, 1), 0)
                g_PW = jnp.where(row_P1 < length - i * T - k, g_PW, jnp.zeros_like(g_PW))
            here = here.astype(jnp.float32).astype(jnp.bfloat16)
            total = sum(jnp.dot(here, part, preferred_element_type=jnp.float32) for part in _parts(g_PW))
            sum_ZW[pl.ds(base, PART + GROUP)] += total

    @pl.when((i == steps - 1) | (now != block_ref[b, jnp.minimum(i + 1, steps - 1)]))
    def _():
        o_ref[0] = sum_ZW[:BLOCK].astype(o_ref.dtype)


def _spread_backward(interpret, c, g_BLD):
    (B, L, D), C = g_BLD.shape, c.index_BC.shape[1]
    T, W = BLOCK, _width(D)
    blocks, slots = pl.cdiv(L, T), pl.cdiv(C, BLOCK)
    slot_B1L = jnp.pad(c.slot_BL, ((0, 0), (0, -L % T)))[:, None]
    # After the last positions come steps that write what is left, and zeros in empty slots.
    first_BZ = c.slot_BL[:, ::T] // BLOCK
    left_BZ = jnp.minimum(first_BZ[:, -1:] + 1 + jnp.arange(slots, dtype=jnp.int32), slots - 1)
    block_BZ = jnp.concatenate([first_BZ, left_BZ], axis=1)

    def source(i):
        return jnp.minimum(i, blocks - 1)

    dz_BCD = pl.pallas_call(
        functools.partial(_sum_kernel, L),
        jax.ShapeDtypeStruct((B, C, D), g_BLD.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, D // W, blocks + slots),
            in_specs=[
                pl.BlockSpec((1, 1, T), lambda b, d, i, _: (b, 0, source(i)), memory_space=pltpu.SMEM),
                pl.BlockSpec((1, 1, T), lambda b, d, i, _: (b, 0, source(i))),
                pl.BlockSpec((1, T, W), lambda b, d, i, _: (b, source(i), d)),
            ],
            out_specs=pl.BlockSpec((1, BLOCK, W), lambda b, d, i, block_ref: (b, block_ref[b, i], d)),
            scratch_shapes=[pltpu.VMEM((2 * BLOCK + GROUP, W), jnp.float32)],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=_ORDER),
        interpret=interpret,
        name="spread_gradient",
    )(block_BZ, slot_B1L, slot_B1L, g_BLD)
    return dz_BCD, None


_spread.defvjp(_spread_forward, _spread_backward)
