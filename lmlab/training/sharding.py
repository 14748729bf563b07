"""Devices, mesh and the table from logical to mesh axes."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lmlab.data.corruptions import NextTokens
from lmlab.errors import UserError
from lmlab.kernels.dispatch import HEADS, ROWS, SEQUENCE
from lmlab.training.processes import all_devices

AXES = (*ROWS, SEQUENCE, HEADS)
POSITIONS = (*NextTokens().shapes(1), "inputs", "input_segment_ids")  # arrays that a model reads or is asked for
RULES = (("embed", "fsdp"), ("vocab", HEADS), ("heads", HEADS), ("inner", HEADS))


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 takes what the others leave. A batch's rows are split over data x fsdp, their
    positions over sequence."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def shape(self, devices):
        """Sizes of `AXES` for `devices` devices."""
        sizes = [getattr(self, axis) for axis in AXES]
        known = int(np.prod([s for s in sizes if s != -1]))
        if sizes.count(-1) > 1 or known < 1 or devices % known or (-1 not in sizes and known != devices):
            axes = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
            raise UserError(f"A mesh of {axes} does not divide {devices} devices.")
        return tuple(devices // known if s == -1 else s for s in sizes)


def make_mesh(mesh, devices=None):
    """The only place that builds a mesh. Auto axes: Linen's partitioning raises under the Explicit ones that
    `jax.make_mesh` gives."""
    devices = np.asarray(all_devices() if devices is None else devices)
    return jax.sharding.Mesh(devices.reshape(mesh.shape(devices.size)), AXES)


def check_rows(run, mesh):
    """UserError unless `run`'s batch divides over the mesh, rows and positions, and into its microbatches."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if run.batch_size % (devices * run.accumulate):
        parts = f" in {run.accumulate} microbatches" if run.accumulate > 1 else ""
        raise UserError(f"A batch of {run.batch_size} rows does not divide over {devices} devices{parts}.")
    parts = mesh.shape[SEQUENCE]
    lengths = {name: shape[0] for name, shape in run.corruption.shapes(run.length).items()}
    for name, length in sorted(lengths.items(), key=lambda item: item[1]):
        if length % parts:
            what = f"Rows of {length} positions" if name in POSITIONS else f"The {length} {name!r} of each row"
            raise UserError(f"{what} do not divide over sequence={parts} devices.")


def batch_sharding(mesh):
    """Of a training batch: rows split over data and fsdp, positions over sequence."""
    return NamedSharding(mesh, PartitionSpec(ROWS, SEQUENCE))


def row_sharding(mesh):
    """Rows split over data and fsdp, each whole."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def replicated(mesh):
    """One copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(abstract, mesh):
    """Shardings of boxed abstract variables by their logical axes; a dimension that a mesh axis does not divide
    stays whole. ValueError for a parameter that names no axes, or one that is not among `RULES`."""
    rules = dict(RULES)

    def one(path, boxed):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(boxed, nn.LogicallyPartitioned):
            raise ValueError(f"The parameter {name} of shape {boxed.shape} names no logical axes.")
        if unknown := set(boxed.names) - {None, *rules}:
            raise ValueError(f"The parameter {name} names the logical axes {sorted(unknown)}, which no rule lays out.")
        axes = [rules[name] if name is not None else None for name in boxed.names]
        sizes = boxed.value.shape
        return NamedSharding(
            mesh,
            PartitionSpec(*[a if a and n % mesh.shape[a] == 0 else None for a, n in zip(axes, sizes, strict=True)]),
        )

    return jax.tree_util.tree_map_with_path(one, abstract, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def local_rows(sharding, batch_size):
    """Numbers of the rows of a batch that the devices of this process hold, ascending."""
    parts = row_sharding(sharding.mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in parts]))


def place(batch, sharding):
    """This process's rows of a batch, whole, to a global array."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    parts = sharding.mesh.shape["data"] * sharding.mesh.shape["fsdp"]
    rows = len(batch["tokens"]) * parts // len(local_rows(sharding, parts))
    # Sources and targets differ in length.
    return {k: jax.make_array_from_process_local_data(sharding, v, (rows, *v.shape[1:])) for k, v in batch.items()}


def place_whole(batch, sharding):
    """A batch that every process holds to a global array, of which each device gets its rows."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return {k: jax.make_array_from_callback(v.shape, sharding, v.__getitem__) for k, v in batch.items()}


def place_parameters(params, shardings):
    """Parameters that every process holds as NumPy arrays to global arrays; copies, whose buffers a step may take."""

    def one(v, sharding):
        return jax.make_array_from_callback(v.shape, sharding, lambda part: np.array(v[part]))

    return jax.tree.map(one, params, shardings)
