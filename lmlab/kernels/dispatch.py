"""Which form of a kernel a program takes: Pallas on TPUs, XLA elsewhere.

XLA cannot partition a Pallas kernel. Under `compiled_for(mesh)` each device runs it on its own rows, and on its own
heads where the tensor axis divides them; rows that do not divide, such as one prompt, are all on every device. Without
a mesh, TPU forms are taken on a single TPU only.
"""

import contextlib
import contextvars

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lmlab.kernels import attention as _attention
from lmlab.kernels import compaction, convolution, scan
from lmlab.kernels import ssd as _ssd
from lmlab.kernels.compaction_tpu import gather_tpu, spread_tpu
from lmlab.kernels.convolution_tpu import TAPS, causal_conv_silu_tpu
from lmlab.kernels.scan_tpu import linear_scan_tpu
from lmlab.kernels.ssd_tpu import ssd_tpu

ROWS, HEADS = ("data", "fsdp"), "tensor"  # mesh axes that rows and heads are split over
LANES = 128

_mesh = contextvars.ContextVar("mesh", default=None)


@contextlib.contextmanager
def compiled_for(mesh):
    """What is traced inside runs on the devices of `mesh` (axes data, fsdp, tensor), which need not be here."""
    token = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(token)


def mesh_of(arrays):
    """The mesh that a tree of arrays is laid out on, or None: a program that reads them is `compiled_for` it."""
    sharding = getattr(jax.tree.leaves(arrays)[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def by_rows(x):
    """`x` [B, ..], split over devices by rows only. Without this XLA may split a hidden state along the axis that `fsdp`
    splits weights along, and move activations where it should gather weights."""
    mesh = _mesh.get()
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, _rows_of(x)))


def _on_tpu():
    mesh = _mesh.get()
    if mesh is None:
        return jax.default_backend() == "tpu" and jax.device_count() == 1
    return mesh.devices.flat[0].platform == "tpu"


def _each_device(kernel, arguments, specs, out_specs):
    """`kernel(*arguments)` on every device's part; an argument None stays None."""
    mesh = _mesh.get()
    if mesh is None or mesh.size == 1:
        return kernel(*arguments)
    given = [i for i, a in enumerate(arguments) if a is not None]

    def part(*values):
        values = dict(zip(given, values, strict=True))
        return kernel(*[values.get(i) for i in range(len(arguments))])

    in_specs = tuple(jax.tree.map(lambda _, s=specs[i]: s, arguments[i]) for i in given)
    mapped = jax.shard_map(part, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return mapped(*[arguments[i] for i in given])


def _heads_axis(heads):
    """The mesh axis that `heads` are split over, or None."""
    mesh = _mesh.get()
    return HEADS if mesh is not None and heads % mesh.shape[HEADS] == 0 else None


def _rows_of(x_B):
    """How an array is split whose first dimension is rows; not at all where the mesh does not divide them."""
    mesh = _mesh.get()
    divides = mesh is not None and len(x_B) % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
    return PartitionSpec(ROWS if divides else None)


def linear_scan(a_BL, b_BLD, h0_BD=None):
    """`lmlab.kernels.scan.linear_scan`."""
    if not _on_tpu():
        return scan.linear_scan(a_BL, b_BLD, h0_BD)
    rows = _rows_of(a_BL)
    return _each_device(linear_scan_tpu, (a_BL, b_BLD, h0_BD), (rows,) * 3, rows)


def ssd(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, segment_ids_BL=None, h0_BHPN=None, chunk=64):
    """`lmlab.kernels.ssd.ssd`. `chunk` is the XLA form's; a TPU takes chunks of 128."""
    arguments = (x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, segment_ids_BL, h0_BHPN)
    P = x_BLHP.shape[3]
    if not _on_tpu() or LANES % P and P % LANES:
        return _ssd.ssd(*arguments, chunk=chunk)
    axis, rows = _heads_axis(x_BLHP.shape[2]), _rows_of(x_BLHP)
    heads, states = PartitionSpec(*rows, None, axis), PartitionSpec(*rows, axis)
    specs = (heads, heads, PartitionSpec(axis), rows, rows, rows, states)
    return _each_device(ssd_tpu, arguments, specs, (heads, states))


def causal_conv_silu(x_BLC, w_KC, bias_C, segment_ids_BL=None, state_BKC=None):
    """`lmlab.kernels.convolution.causal_conv_silu`. With a state, or channels that fill no registers, the XLA form."""
    if not _on_tpu() or state_BKC is not None or x_BLC.shape[2] % LANES or w_KC.shape[0] > TAPS:
        w_KC, bias_C = w_KC.astype(x_BLC.dtype), bias_C.astype(x_BLC.dtype)
        return convolution.causal_conv_silu(x_BLC, w_KC, bias_C, segment_ids_BL, state_BKC)
    # The devices' gradients of the weights are added up where these enter: in float32.
    arguments = (x_BLC, w_KC.astype(jnp.float32), bias_C.astype(jnp.float32), segment_ids_BL)
    rows = _rows_of(x_BLC)
    return _each_device(causal_conv_silu_tpu, arguments, (rows, PartitionSpec(), PartitionSpec(), rows), rows)


def gather(x_BLD, c):
    """`lmlab.kernels.compaction.gather`. Rows of a few numbers take the XLA form."""
    if not _on_tpu() or x_BLD.ndim != 3 or x_BLD.shape[2] % LANES:
        return compaction.gather(x_BLD, c)
    rows = _rows_of(x_BLD)
    return _each_device(gather_tpu, (x_BLD, c), (rows, rows), rows)


def spread(z_BCD, c):
    """`lmlab.kernels.compaction.spread`."""
    if not _on_tpu() or z_BCD.shape[2] % LANES:
        return compaction.spread(z_BCD, c)
    rows = _rows_of(z_BCD)
    return _each_device(spread_tpu, (z_BCD, c), (rows, rows), rows)


def attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL=None, window=None):
    """`lmlab.kernels.attention.attention_reference`: splash attention on TPUs, else in blocks; so too on GPUs, where
    `jax.nn.dot_product_attention` takes the dense form for packed documents."""
    if not _on_tpu():
        return _attention.blocked_attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, window)
    rows = _rows_of(q_BLHK)
    heads = PartitionSpec(*rows, None, _heads_axis(q_BLHK.shape[2]))

    def kernel(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL):
        return _attention.splash_attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, window)

    return _each_device(kernel, (q_BLHK, k_BLHK, v_BLHK, segment_ids_BL), (heads, heads, heads, rows), heads)
