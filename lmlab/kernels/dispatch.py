"""Which form of a kernel a program takes: Pallas on TPUs, XLA elsewhere.

XLA cannot partition a Pallas kernel. Under `compiled_for(mesh)` each device runs it on its own rows, on its own
positions, with what it needs of the others' (`lmlab.kernels.sequence`), and on its own heads where the tensor axis
divides them; rows that do not divide, such as one prompt, are all on every device. XLA forms are left to XLA, which
splits rows for nothing; where positions are split they too run on each device's own. Without a mesh, TPU forms are taken
on a single TPU only.
"""

import contextlib
import contextvars
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lmlab.kernels import attention as _attention
from lmlab.kernels import biased_attention as _biased_attention
from lmlab.kernels import compaction, convolution, scan, sequence, shared_rows
from lmlab.kernels import ssd as _ssd
from lmlab.kernels.compaction_tpu import BLOCK, gather_tpu, spread_tpu
from lmlab.kernels.convolution_tpu import TAPS, causal_conv_silu_tpu
from lmlab.kernels.scan_tpu import linear_scan_tpu
from lmlab.kernels.sequence import SEQUENCE
from lmlab.kernels.ssd_tpu import ssd_tpu

ROWS, HEADS = ("data", "fsdp"), "tensor"  # mesh axes that rows and heads are split over
LANES = 128
JOINED = 4  # rows; more would be hardly more alike, and make recurrences longer

_mesh = contextvars.ContextVar("mesh", default=None)
_whole_rows = contextvars.ContextVar("whole_rows", default=False)
_sharing = contextvars.ContextVar("sharing", default=None)


@contextlib.contextmanager
def compiled_for(mesh, whole_rows=False):
    """What is traced inside runs on the devices of `mesh` (axes data, fsdp, sequence, tensor); they need not be here.
    `whole_rows`: positions are not split, whatever the mesh: prompts have any length."""
    tokens = _mesh.set(mesh), _whole_rows.set(whole_rows)
    try:
        yield
    finally:
        _mesh.reset(tokens[0])
        _whole_rows.reset(tokens[1])


@contextlib.contextmanager
def rows_share(sharing):
    """What is traced inside works on joined rows, see `lmlab.kernels.shared_rows`; None: on rows as they are."""
    token = _sharing.set(sharing)
    try:
        yield
    finally:
        _sharing.reset(token)


def sharing():
    """How rows share slots here, or None."""
    return _sharing.get()


def by_rows(mix, arrays, segment_ids_BL):
    """`mix(*arrays [B, L, H, K], segment_ids)`, which looks within equal segment ids alone; of joined rows with every row
    by itself."""
    share = _sharing.get()
    if share is None:
        return mix(*arrays, segment_ids_BL)
    places, slots = shared_rows.places(segment_ids_BL, share), segment_ids_BL.shape[1]
    row = _rows_spec(segment_ids_BL)
    spec = _rows_spec(segment_ids_BL, None, _heads_axis(arrays[0].shape[2]))
    apart = lambda x, p: shared_rows.apart(x, p, share.row_slots)  # noqa: E731
    parts = [_each_device(apart, (x, places), (spec, row), spec) for x in arrays]
    ids_NC = _each_device(apart, (segment_ids_BL, places), (row, row), row)
    again = lambda y, p: shared_rows.together(y, p, slots)  # noqa: E731
    return _each_device(again, (mix(*parts, ids_NC), places), (spec, row), spec)


def rows_to_join(rows):
    """How many rows may share slots: the most, up to `JOINED`, that lie on one device and divide its rows evenly. On
    a CPU two joined rows are left at least, as XLA's products of a single one are slow."""
    mesh = _mesh.get()
    devices = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % devices or positions_are_split():
        return 1
    own = rows // devices
    most = min(JOINED, own // 2 if on_cpu() else own)
    return max(n for n in range(1, max(most, 1) + 1) if own % n == 0)


def mesh_of(arrays):
    """The mesh that a tree of arrays is laid out on, or None: a program that reads them is `compiled_for` it."""
    sharding = getattr(jax.tree.leaves(arrays)[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def _on_tpu():
    mesh = _mesh.get()
    if mesh is None:
        return jax.default_backend() == "tpu" and jax.device_count() == 1
    return mesh.devices.flat[0].platform == "tpu"


def on_cpu():
    """Whether what is traced is for CPUs."""
    mesh = _mesh.get()
    return (jax.default_backend() if mesh is None else mesh.devices.flat[0].platform) == "cpu"


def _each_device(kernel, arguments, specs, out_specs):
    """`kernel(*arguments)` on every device's part; an argument None stays None."""
    mesh = _mesh.get()
    if mesh is None or mesh.size == 1:
        return kernel(*arguments)
    given = [i for i, a in enumerate(arguments) if a is not None]

    def part(*values):
        values = dict(zip(given, values, strict=True))
        return kernel(*[values.get(i) for i in range(len(arguments))])

    in_specs = tuple(specs[i] for i in given)
    mapped = jax.shard_map(part, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return mapped(*[arguments[i] for i in given])


def _heads_axis(heads, unit=1):
    """The mesh axis that `heads`, or channels in whole units, are split over, or None."""
    mesh = _mesh.get()
    return HEADS if mesh is not None and heads % (unit * mesh.shape[HEADS]) == 0 else None


def positions_are_split():
    """Whether the positions of a row lie on several devices. Their axis must not be merged with that of the rows: no
    sharding says what that would be, and XLA would gather."""
    mesh = _mesh.get()
    return mesh is not None and mesh.shape[SEQUENCE] > 1 and not _whole_rows.get()


def _rows_axis(x_B):
    """The mesh axes that the first dimension of an array is split over, or None where they do not divide it."""
    mesh = _mesh.get()
    divides = mesh is not None and len(x_B) % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
    return ROWS if divides else None


def _rows_spec(x_B, *more):
    """How an array is split whose first dimension is rows, and whose next ones are as `more` says."""
    return PartitionSpec(_rows_axis(x_B), *more)


def _positions_spec(x_BL, *more):
    """Likewise of one whose second dimension is positions, or chunks."""
    return _rows_spec(x_BL, SEQUENCE if positions_are_split() else None, *more)


def by_positions(x_BLD):
    """The same array, split by rows and positions and whole in channels. XLA left alone takes over the split of weights
    over fsdp: activations split by channels, which every product then gathers or adds up."""
    mesh = _mesh.get()
    if mesh is None or mesh.size == 1:
        return x_BLD
    return jax.lax.with_sharding_constraint(x_BLD, NamedSharding(mesh, _positions_spec(x_BLD)))


def slot_unit():
    """Numbers of chunk slots are multiples of this: of 8, and of what the positions are split over."""
    return math.lcm(8, _mesh.get().shape[SEQUENCE]) if positions_are_split() else 8


def linear_scan(a_BL, b_BLD, h0_BD=None):
    """`lmlab.kernels.scan.linear_scan`."""
    kernel = linear_scan_tpu if _on_tpu() else scan.linear_scan
    if positions_are_split():
        kernel = functools.partial(sequence.linear_scan, kernel)
    elif not _on_tpu():
        return kernel(a_BL, b_BLD, h0_BD)
    spec = _positions_spec(a_BL)
    return _each_device(kernel, (a_BL, b_BLD, h0_BD), (spec, spec, _rows_spec(a_BL)), spec)


def ssd(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, segment_ids_BL=None, h0_BHPN=None, chunk=64):
    """`lmlab.kernels.ssd.ssd`. `chunk` is the XLA form's; a TPU takes chunks of 128."""
    arguments = (x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, segment_ids_BL, h0_BHPN)
    P = x_BLHP.shape[3]
    pallas = _on_tpu() and not (LANES % P and P % LANES)
    kernel = ssd_tpu if pallas else functools.partial(_ssd.ssd, chunk=chunk)
    axis = _heads_axis(x_BLHP.shape[2])
    heads, states, spec = _positions_spec(x_BLHP, axis), _rows_spec(x_BLHP, axis), _positions_spec(x_BLHP)
    specs = (heads, heads, PartitionSpec(axis), spec, spec, spec, states)
    if positions_are_split():

        def split(*arguments):
            y_BLHP, h_BHPN = sequence.ssd(kernel, *arguments)
            return y_BLHP, h_BHPN[None]  # of every device; the last one's is the row's

        y_BLHP, h_SBHPN = _each_device(split, arguments, specs, (heads, PartitionSpec(SEQUENCE, *states)))
        return y_BLHP, h_SBHPN[-1]
    return _each_device(kernel, arguments, specs, (heads, states)) if pallas else kernel(*arguments)


def causal_conv_silu(x_BLC, w_KC, bias_C, segment_ids_BL=None, state_BKC=None):
    """`lmlab.kernels.convolution.causal_conv_silu`. With a state, or channels that fill no registers, the XLA form."""
    pallas = _on_tpu() and state_BKC is None and not x_BLC.shape[2] % LANES and w_KC.shape[0] <= TAPS
    split = positions_are_split() and state_BKC is None
    if not pallas and not split:
        w_KC, bias_C = w_KC.astype(x_BLC.dtype), bias_C.astype(x_BLC.dtype)
        return convolution.causal_conv_silu(x_BLC, w_KC, bias_C, segment_ids_BL, state_BKC)

    def part(x_BLC, w_KC, bias_C, segment_ids_BL):
        kernel = causal_conv_silu_tpu
        if not pallas:
            kernel, w_KC, bias_C = convolution.causal_conv_silu, w_KC.astype(x_BLC.dtype), bias_C.astype(x_BLC.dtype)
        kernel = functools.partial(sequence.causal_conv_silu, kernel) if split else kernel
        return kernel(x_BLC, w_KC, bias_C, segment_ids_BL)

    # The devices' gradients of the weights are added up where these enter: in float32.
    arguments = (x_BLC, w_KC.astype(jnp.float32), bias_C.astype(jnp.float32), segment_ids_BL)
    axis = _heads_axis(x_BLC.shape[2], LANES if pallas else 1)
    channels = _positions_spec(x_BLC, axis)
    specs = (channels, PartitionSpec(None, axis), PartitionSpec(axis), _positions_spec(x_BLC))
    return _each_device(part, arguments, specs, channels)


def biased_attention(q_BLHK, k_BMHK, v_BMHK, biases, seen, null=False):
    """`lmlab.kernels.biased_attention.biased_attention`, by rows where these are large and on one CPU."""
    mesh = _mesh.get()
    large = q_BLHK.shape[1] * k_BMHK.shape[1] >= _biased_attention.LARGE
    by_row = large and on_cpu() and (mesh is None or mesh.size == 1)
    return _biased_attention.biased_attention(q_BLHK, k_BMHK, v_BMHK, biases, seen, null, by_row)


def shift_right(x_BL, fill):
    """x_{t-1} along axis 1, `fill` at t = 0."""
    if positions_are_split():
        kernel = functools.partial(sequence.shift_right, fill=fill)
        return _each_device(kernel, (x_BL,), (_positions_spec(x_BL),), _positions_spec(x_BL))
    first = jnp.full_like(x_BL[:, :1], fill)
    return jax.lax.concatenate([first, x_BL[:, :-1]], dimension=1)


def _compaction(x_BL):
    return compaction.Compaction(*[_positions_spec(x_BL)] * 4, overflow_B=_rows_spec(x_BL))


def compact(start_BL, capacity):
    """`lmlab.kernels.compaction.compact`. Where positions are split, so are the slots, evenly: `slot_unit`."""
    if not positions_are_split():
        return compaction.compact(start_BL, capacity)
    kernel = functools.partial(sequence.compact, capacity=capacity)
    return _each_device(kernel, (start_BL,), (_positions_spec(start_BL),), _compaction(start_BL))


def gather(x_BLD, c):
    """`lmlab.kernels.compaction.gather`. Rows of a few numbers take the XLA form."""
    pallas = _on_tpu() and x_BLD.ndim == 3 and not x_BLD.shape[2] % LANES
    kernel = gather_tpu if pallas else compaction.gather
    if positions_are_split():
        kernel = functools.partial(sequence.gather, kernel)
    elif not pallas:
        return kernel(x_BLD, c)
    spec = _positions_spec(x_BLD)
    return _each_device(kernel, (x_BLD, c), (spec, _compaction(x_BLD)), spec)


def spread(z_BCD, c):
    """`lmlab.kernels.compaction.spread`, likewise."""
    pallas = _on_tpu() and z_BCD.ndim == 3 and not z_BCD.shape[2] % LANES
    kernel = spread_tpu if pallas else compaction.spread
    if positions_are_split():
        kernel = functools.partial(sequence.spread, kernel, block=BLOCK if pallas else None)
    elif not pallas:
        return kernel(z_BCD, c)
    spec = _positions_spec(z_BCD)
    return _each_device(kernel, (z_BCD, c), (spec, _compaction(z_BCD)), spec)


def attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL=None, window=None):
    """`lmlab.kernels.attention.attention_reference`: splash attention on TPUs, else in blocks; so too on GPUs, where
    `jax.nn.dot_product_attention` takes the dense form for packed documents."""
    form = _attention.splash_attention if _on_tpu() else _attention.blocked_attention

    def kernel(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL):
        return form(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, window)

    part = functools.partial(sequence.attention, kernel, window=window) if positions_are_split() else kernel

    def each(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL):
        if part is kernel and not _on_tpu():
            return kernel(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL)
        heads, spec = _positions_spec(q_BLHK, _heads_axis(q_BLHK.shape[2])), _positions_spec(q_BLHK)
        return _each_device(part, (q_BLHK, k_BLHK, v_BLHK, segment_ids_BL), (heads, heads, heads, spec), heads)

    return by_rows(each, (q_BLHK, k_BLHK, v_BLHK), segment_ids_BL)
