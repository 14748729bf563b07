"""What a child process of `lmlab.compile` does: compile a run's training step for devices that are not here."""

import json
import math
import pathlib
import pickle
import re
import sys
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from lmlab import config
from lmlab.errors import UserError
from lmlab.kernels.hlo import read
from lmlab.training.sharding import batch_sharding, check_rows, make_mesh
from lmlab.training.step import make_init, make_step, peak_bytes


def _step(run, devices):
    """(jitted step, shapes of its arguments) on `devices`."""
    mesh = make_mesh(run.mesh, devices)
    check_rows(run, mesh)
    optimizer = run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, mesh)
    state = jax.eval_shape(init, jax.random.key(0))
    state = jax.tree.map(lambda v, s: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=s), state, shardings)
    rows, shapes = batch_sharding(mesh), run.corruption.shapes(run.length)
    shapes |= getattr(run.tokenizer, "annotation_shapes", lambda length: {})(run.length)
    dtypes = {name: jnp.float32 if name == "weights" else jnp.int32 for name in shapes}
    batch = {
        name: jax.ShapeDtypeStruct((run.batch_size, *shape), dtypes[name], sharding=rows)
        for name, shape in shapes.items()
    }
    return make_step(run, optimizer, mesh, shardings), (state, batch)


def _out_of_memory(message):
    """(bytes needed, bytes allowed) of the compiler's refusal, or None if it is another error."""
    sizes = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", message)
    sizes = sizes or re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message)
    unit = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return sizes and (int(float(sizes[1]) * unit[sizes[2]]), int(float(sizes[3]) * unit[sizes[4]]))


def _bytes_of_each(arguments):
    """What one device holds of arrays."""
    return sum(math.prod(v.sharding.shard_shape(v.shape)) * v.dtype.itemsize for v in jax.tree.leaves(arguments))


def _largest_arrays(jaxpr, count=5):
    """The largest arrays that the step makes, over all chips, as the program states them: "shape: bytes, where"."""
    found = {}

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            for variable in equation.outvars:
                aval, where = variable.aval, str(equation.source_info.name_stack)
                if hasattr(aval, "dtype") and jax.dtypes.issubdtype(aval.dtype, jnp.number):
                    size = aval.size * aval.dtype.itemsize
                    known = found.setdefault(aval.str_short(short_dtypes=True), [size, 0, where])
                    known[1] += 1
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jaxpr)
    top = sorted(found.items(), key=lambda item: -item[1][0])[:count]
    return [f"{shape}: {size / 1e9:,.2f} GB over all chips, {times} of them, such as {where}" for shape, (size, times, where) in top]


def _compile(run, topology, slices, quick):
    began = time.monotonic()
    if quick:
        jax.config.update("jax_optimization_level", "O1")
    try:
        more = {"num_slices": slices} if slices > 1 else {}
        shape = [int(n) for n in topology.partition(":")[2].split("x")]
        if math.prod(shape) < 4:  # less than the host that libtpu takes for granted
            more["chips_per_host_bounds"] = shape + [1] * (3 - len(shape))
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **more).devices
    except Exception as error:  # libtpu's own message says which shapes there are
        return {"error": f"libtpu does not know {slices} x {topology}: {str(error).splitlines()[0]}"}
    try:
        step, arguments = _step(run, devices)
        traced = step.trace(*arguments)
        compiled = traced.lower().compile()
    except UserError as error:
        return {"error": str(error)}
    except jax.errors.JaxRuntimeError as error:
        refusal = _out_of_memory(str(error))
        if refusal is None:
            raise
        needed, limit = refusal
        return {
            "topology": topology,
            "chips": len(devices),
            "slices": slices,
            "seconds": time.monotonic() - began,
            "fits": False,
            "needed_bytes": needed,
            "limit_bytes": limit,
            "argument_bytes": _bytes_of_each(arguments),
            "largest": _largest_arrays(traced.jaxpr.jaxpr),
        }
    memory, program = compiled.memory_analysis(), read(compiled.as_text())
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    kernels = {}
    for k in program.kernels:
        name = k.name.partition(".")[0]
        runs, moved, flops = kernels.get(name, (0, 0, 0))
        kernels[name] = (runs + k.calls, moved + k.calls * k.hbm_bytes, flops + k.calls * k.flops)
    return {
        "topology": topology,
        "chips": len(devices),
        "slices": slices,
        "seconds": time.monotonic() - began,
        "fits": True,
        "needed_bytes": peak_bytes(compiled),
        "limit_bytes": None,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": fresh,
        "temporary_bytes": memory.temp_size_in_bytes,
        "cycles": program.cycles,
        "unknown_loops": program.unknown_loops,
        "product_flops": program.flops,
        "kernels": kernels,
        "collectives": program.collectives,
    }


if __name__ == "__main__":
    _given = pickle.load(sys.stdin.buffer)
    _answer = _compile(config.from_json(_given["run"]), _given["topology"], _given["slices"], _given["quick"])
    pathlib.Path(sys.argv[1], "reports.json").write_text(json.dumps(_answer))
