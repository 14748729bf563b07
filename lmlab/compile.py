"""Compile a run's training step for TPUs that are not here: does it fit, and where would its time go?

The whole jitted step, optimizer and collectives included, is compiled by libtpu for a described slice, in a child
process. Times are predictions: XLA's estimated cycles of what it compiled, kernels at the larger of their FLOPs at the
chip's peak and their bytes at its memory's, collectives at one link's speed and not overlapped; of capacities that are
chosen in the step, the one of the most cycles. None has been compared with a run on hardware, and over several slices,
whose network is another, none is made.
"""

import dataclasses
import json
import pathlib
import pickle
import re
import sys
import time

from lmlab import config
from lmlab.errors import Interrupted, UserError
from lmlab.kernels import aot


@dataclasses.dataclass(frozen=True)
class Chip:
    """Per chip, from Google's documentation of each generation (bf16 peak, HBM, ICI per link and direction)."""

    flops: float  # per second, bf16
    hbm_bytes: float  # per second
    link_bytes: float  # per second
    hertz: float  # of the clock that XLA's cycles are of


CHIPS = {
    "v4": Chip(275e12, 1.23e12, 45e9, 1.05e9),
    "v5e": Chip(197e12, 0.82e12, 45e9, 1.5e9),
    "v5p": Chip(459e12, 2.77e12, 90e9, 1.75e9),
    "v6e": Chip(918e12, 1.64e12, 90e9, 1.75e9),
}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One training step on one chip of a slice. Bytes are per chip."""

    topology: str
    chips: int
    slices: int
    seconds: float  # to trace, lower and compile
    fits: bool
    needed_bytes: int  # HBM: arguments, outputs that alias none of them, temporaries
    limit_bytes: int | None  # HBM that the compiler may use; known where it did not fit
    argument_bytes: int = 0
    output_bytes: int = 0  # beyond those that reuse an argument's memory
    temporary_bytes: int = 0
    largest: tuple[str, ...] = ()  # arrays of a step that does not fit
    cycles: int = 0
    unknown_loops: int = 0
    product_flops: int = 0  # of matrix products outside kernels
    kernels: dict[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)  # name: (runs, bytes, FLOPs)
    collectives: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # "kind dtype": (runs, bytes)


def compile_step(run, topology, slices=1, timeout=3600):
    """`Compiled` of `run`'s training step on `slices` slices of `topology`, such as "v5p:4x4x4".

    `Interrupted` if the compiler fails; UserError for an unknown topology, a mesh or batch that does not divide its chips, or without libtpu.
    """
    if topology.partition(":")[0] not in CHIPS or not re.fullmatch(r"\w+:\d+x\d+(x\d+)?", topology):
        raise UserError(f"A topology is a generation ({', '.join(CHIPS)}) and a shape, such as v5p:4x4x4, not {topology!r}.")
    if slices < 1:
        raise UserError(f"--slices is at least 1, not {slices}.")
    payload = {"run": config.to_json(run), "topology": topology, "slices": slices}
    try:
        answer = aot.in_child("lmlab.compile", payload, timeout=timeout)
    except TimeoutError as error:
        raise Interrupted(f"Compiling took more than {timeout} s.") from error
    except RuntimeError as error:
        raise Interrupted(f"libtpu failed: {str(error).strip().splitlines()[-1]}") from error
    if "error" in answer:
        raise UserError(answer["error"])
    answer["largest"] = tuple(answer.get("largest", ()))
    for name in ("kernels", "collectives"):
        answer[name] = {k: tuple(v) for k, v in answer.get(name, {}).items()}
    return Compiled(**answer)


def step_seconds(compiled):
    """Predicted seconds of a step: {"XLA", "kernels", "collectives"}."""
    chip = CHIPS[compiled.topology.partition(":")[0]]
    kernels = sum(max(moved / chip.hbm_bytes, flops / chip.flops) for _, moved, flops in compiled.kernels.values())
    return {
        "XLA": compiled.cycles / chip.hertz,
        "kernels": kernels,
        "collectives": sum(moved for _, moved in compiled.collectives.values()) / chip.link_bytes,
    }


def utilisation(run, compiled):
    """Model FLOPs (3 forward passes, chunks as planned) over what all chips could do in the predicted step."""
    flops = 3 * sum(run.flops().values()) * run.batch_size * run.length
    chip = CHIPS[compiled.topology.partition(":")[0]]
    return flops / (sum(step_seconds(compiled).values()) * compiled.chips * chip.flops)


def smaller(run, compiled):
    """The next thing to try with a step that does not fit, as (what, Run): recompute blocks, then smaller
    microbatches; None if a microbatch is a row per device already."""
    if not run.remat:
        return "remat=True", dataclasses.replace(run, remat=True)
    rows = run.batch_size // (run.mesh.shape(compiled.chips)[0] * run.mesh.shape(compiled.chips)[1])
    following = [n for n in range(run.accumulate + 1, rows + 1) if rows % n == 0]
    if not following:
        return None
    run = dataclasses.replace(run, accumulate=following[0])
    return f"remat=True, accumulate={run.accumulate}", run


def describe(run, compiled):
    """Lines for people."""
    mesh = dict(zip(("data", "fsdp", "tensor"), run.mesh.shape(compiled.chips), strict=True))
    layout = ", ".join(f"{axis} {size}" for axis, size in mesh.items())
    yield f"{compiled.topology}, {compiled.chips} chips ({layout}); compiled in {compiled.seconds:.0f} s"
    if not compiled.fits:
        yield f"does not fit: {_gb(compiled.needed_bytes)} of HBM per chip, of {_gb(compiled.limit_bytes)}. The largest arrays:"
        yield from (f"  {buffer}" for buffer in compiled.largest)
        return
    yield (
        f"fits: {_gb(compiled.needed_bytes)} of HBM per chip: arguments {_gb(compiled.argument_bytes)}, outputs beyond "
        f"them {_gb(compiled.output_bytes)}, temporaries {_gb(compiled.temporary_bytes)}"
    )
    step_bytes = run.batch_size * run.length * run.tokenizer.bytes_per_token
    ours = 3 * sum(run.flops_per_byte().values())
    products = compiled.product_flops * compiled.chips / step_bytes
    inside = sum(flops for *_, flops in compiled.kernels.values()) * compiled.chips / step_bytes
    yield (
        f"training FLOPs per byte: {ours:,.0f} counted, {products + inside:,.0f} compiled ({(products + inside) / ours:.2f}): "
        f"{products:,.0f} in XLA's products, {inside:,.0f} in kernels as they state them"
    )
    if compiled.slices == 1:
        yield _prediction(run, compiled, step_bytes)
    for kind, (runs, moved) in sorted(compiled.collectives.items()):
        yield f"  {kind:<32} {runs:>5} runs {_gb(moved):>10}"
    for name, (runs, moved, flops) in sorted(compiled.kernels.items()):
        yield f"  {name:<32} {runs:>5} runs {_gb(moved):>10} {flops / 1e12:>10.3f} TFLOP"
    if compiled.unknown_loops:
        yield f"  {compiled.unknown_loops} loops of unknown length are counted once."


def _prediction(run, compiled, step_bytes):
    seconds = step_seconds(compiled)
    parts = ", ".join(f"{name} {1e3 * s:,.0f}" for name, s in seconds.items())
    total = sum(seconds.values())
    return (
        f"predicted step: {1e3 * total:,.0f} ms ({parts}): {step_bytes / total / 1e6:,.1f} MB/s, utilisation "
        f"{utilisation(run, compiled):.2f}"
    )


def _gb(size):
    return f"{size / 1e9:,.2f} GB"


def fit(run, topology, slices=1, show=print):
    """Compile `run`, then ever smaller ones until one fits; the (what was changed, Run, Compiled) that did, or the last."""
    changed = ""
    while True:
        compiled = compile_step(run, topology, slices)
        for line in describe(run, compiled):
            show(line)
        following = None if compiled.fits else smaller(run, compiled)
        if following is None:
            return changed, run, compiled
        changed, run = following
        show(f"trying {changed}")


HEADER = (
    "| arm | mesh | changed to fit | HBM per chip | compiled FLOPs over counted | predicted step | utilisation | kernels |\n"
    "|---|---|---|--:|--:|--:|--:|---|"
)


def row(name, changed, run, compiled):
    """One line under `HEADER`."""
    mesh = " x ".join(str(n) for n in run.mesh.shape(compiled.chips))
    if not compiled.fits:
        return f"| {name} | {mesh} | {changed} | {_gb(compiled.needed_bytes)}, too much | | | | |"
    step_bytes = run.batch_size * run.length * run.tokenizer.bytes_per_token
    flops = compiled.product_flops + sum(flops for *_, flops in compiled.kernels.values())
    ratio = flops * compiled.chips / step_bytes / (3 * sum(run.flops_per_byte().values()))
    predicted = ("", "")
    if compiled.slices == 1:
        predicted = (f"{1e3 * sum(step_seconds(compiled).values()):,.0f} ms", f"{utilisation(run, compiled):.2f}")
    cells = (name, mesh, changed, _gb(compiled.needed_bytes), f"{ratio:.2f}", *predicted)
    return "| " + " | ".join([*cells, ", ".join(sorted(compiled.kernels))]) + " |"


# The child process


def _step(run, devices):
    """(jitted step, shapes of its arguments) on `devices`."""
    import jax
    import jax.numpy as jnp

    from lmlab.training.sharding import batch_sharding, check_rows, make_mesh
    from lmlab.training.step import make_init, make_step

    mesh = make_mesh(run.mesh, devices)
    check_rows(run, mesh)
    optimizer = run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, mesh)
    state = jax.eval_shape(init, jax.random.key(0))
    state = jax.tree.map(lambda v, s: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=s), state, shardings)
    rows = batch_sharding(mesh)
    shapes = run.corruption.shapes(run.length)
    shapes |= {name: (run.length,) for name in getattr(run.tokenizer, "annotations", ())}
    batch = {
        name: jax.ShapeDtypeStruct(
            (run.batch_size, *shape), jnp.float32 if name == "weights" else jnp.int32, sharding=rows
        )
        for name, shape in shapes.items()
    }
    return make_step(run, optimizer, mesh, shardings), (state, batch)


def _out_of_memory(message):
    """(bytes needed, bytes allowed) of the compiler's refusal, or None if it is another error."""
    sizes = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", message)
    sizes = sizes or re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message)
    unit = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return sizes and (int(float(sizes[1]) * unit[sizes[2]]), int(float(sizes[3]) * unit[sizes[4]]))


def _largest_arrays(jaxpr, count=5):
    """The largest arrays that the step makes, over all chips, as the program states them: "shape: bytes, where"."""
    import jax

    found = {}

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            for variable in equation.outvars:
                aval, where = variable.aval, str(equation.source_info.name_stack)
                if hasattr(aval, "dtype") and jax.dtypes.issubdtype(aval.dtype, jax.numpy.number):
                    size = aval.size * aval.dtype.itemsize
                    known = found.setdefault(aval.str_short(short_dtypes=True), [size, 0, where])
                    known[1] += 1
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jaxpr)
    top = sorted(found.items(), key=lambda item: -item[1][0])[:count]
    return [f"{shape}: {_gb(size)} over all chips, {times} of them, such as {where}" for shape, (size, times, where) in top]


def _compile(run, topology, slices):
    import jax
    from jax.experimental import topologies

    from lmlab.kernels.hlo import read

    began = time.monotonic()
    try:
        more = {"num_slices": slices} if slices > 1 else {}
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
            "largest": _largest_arrays(traced.jaxpr.jaxpr),
        }
    memory, program = compiled.memory_analysis(), read(compiled.as_text())
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    kernels = {}
    for k in program.kernels:
        name = re.sub(r"[.\d]+$", "", k.name)
        runs, moved, flops = kernels.get(name, (0, 0, 0))
        kernels[name] = (runs + k.calls, moved + k.calls * k.hbm_bytes, flops + k.calls * k.flops)
    return {
        "topology": topology,
        "chips": len(devices),
        "slices": slices,
        "seconds": time.monotonic() - began,
        "fits": True,
        "needed_bytes": memory.argument_size_in_bytes + fresh + memory.temp_size_in_bytes,
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
    _answer = _compile(config.from_json(_given["run"]), _given["topology"], _given["slices"])
    pathlib.Path(sys.argv[1], "reports.json").write_text(json.dumps(_answer))
