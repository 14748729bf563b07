"""Compile a run's training step for TPUs that are not here: does it fit, and where would its time go?

The whole jitted step, optimizer and collectives included, is compiled by libtpu for a described slice, in a child
process. Times are predictions: XLA's estimated cycles of what it compiled, kernels at the larger of their FLOPs at the
chip's peak and their bytes at its memory's, collectives at one link's speed, what leaves a slice at its chip's share of
the data center's network, nothing overlapped; of capacities that are chosen in the step, the one of the most cycles.
None has been compared with a run on hardware.
"""

import dataclasses
import math
import pathlib
import re

from lmlab import config
from lmlab.errors import Interrupted, UserError
from lmlab.kernels import aot
from lmlab.kernels.chips import CHIPS


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
    quick: bool = False  # XLA optimised less: its cycles are several times too many


def check_target(topology, slices=1):
    """UserError unless this is how a target is written and libtpu is here."""
    if topology.partition(":")[0] not in CHIPS or not re.fullmatch(r"\w+:\d+x\d+(x\d+)?", topology):
        raise UserError(f"A topology is a generation ({', '.join(CHIPS)}) and a shape, such as v5p:4x4x4, not {topology!r}.")
    if slices < 1:
        raise UserError(f"--slices is at least 1, not {slices}.")
    aot.need_libtpu()


def compile_step(run, topology, slices=1, timeout=3600, quick=False):
    """`Compiled` of `run`'s training step on `slices` slices of `topology`, such as "v5p:4x4x4". `quick`: XLA spends a
    third of the time, and optimises less: memory is then only about right, and no time is predicted.

    `Interrupted` if the compiler fails; UserError for an unknown topology, a mesh or batch that does not divide its chips, or without libtpu.
    """
    check_target(topology, slices)
    payload = {"run": config.to_json(run), "topology": topology, "slices": slices, "quick": quick}
    try:
        answer = aot.in_child("lmlab.training.ahead", payload, timeout=timeout)
    except TimeoutError as error:
        raise Interrupted(f"Compiling took more than {timeout} s.") from error
    except RuntimeError as error:
        raise Interrupted(f"libtpu failed: {str(error).strip().splitlines()[-1]}") from error
    if "error" in answer:
        raise UserError(answer["error"])
    answer["largest"] = tuple(answer.get("largest", ()))
    for name in ("kernels", "collectives"):
        answer[name] = {k: tuple(v) for k, v in answer.get(name, {}).items()}
    return Compiled(**answer, quick=quick)


DEFAULTS = ("v5p:4x4x4", "v5p:2x4x4", "v5p:2x2x4", "v5p:2x2x2", "v5p:2x2x1", "v5e:1x1")  # v5p has no smaller slice


def default_topology(run, slices=1):
    """The first of `DEFAULTS` over whose chips `run`'s rows divide, the very first if over none. The last is another
    generation, of a single chip."""

    def divides(topology):
        chips = math.prod(int(n) for n in topology.partition(":")[2].split("x"))
        try:
            data, fsdp, *_ = run.mesh.shape(chips * slices)
        except UserError:
            return False
        return run.batch_size % (data * fsdp * run.accumulate) == 0

    return next(filter(divides, DEFAULTS), DEFAULTS[0])


def step_seconds(compiled):
    """Predicted seconds of a step: {"XLA", "kernels", "collectives"} and "network" between slices; empty where that is
    not known."""
    chip = CHIPS[compiled.topology.partition(":")[0]]
    kernels = sum(max(moved / chip.hbm_bytes, flops / chip.flops) for _, moved, flops in compiled.kernels.values())
    outside = sum(moved for kind, (_, moved) in compiled.collectives.items() if kind.startswith("between slices"))
    if outside and chip.network_bytes is None:
        return {}
    seconds = {
        "XLA": compiled.cycles / chip.hertz,
        "kernels": kernels,
        "collectives": (sum(moved for _, moved in compiled.collectives.values()) - outside) / chip.link_bytes,
    }
    return seconds | ({"network": outside / chip.network_bytes} if outside else {})


def utilisation(run, compiled):
    """Model FLOPs (3 forward passes, chunks as planned) over what all chips could do in the predicted step."""
    flops = 3 * sum(run.flops().values()) * run.batch_size * run.length
    chip = CHIPS[compiled.topology.partition(":")[0]]
    return flops / (sum(step_seconds(compiled).values()) * compiled.chips * chip.flops)


def smaller(run, compiled):
    """The next thing to try with a step that does not fit, as (what, Run): split the state over devices where it alone
    fills most of a chip, recompute blocks, then smaller microbatches; None if a microbatch is a row per device already.
    """
    chips, needed, limit = compiled.chips, compiled.argument_bytes, compiled.limit_bytes or 0
    if needed > limit / 2 and run.mesh.fsdp == 1:
        free = chips // math.prod(run.mesh.shape(chips)[2:])
        fsdp = next((n for n in range(2, free + 1) if free % n == 0 and needed / n < limit / 4), free)
        run = dataclasses.replace(run, mesh=dataclasses.replace(run.mesh, data=-1, fsdp=fsdp))
        return f"mesh.fsdp={fsdp}", run
    if not run.remat:
        return "remat=True", dataclasses.replace(run, remat=True)
    rows = run.batch_size // math.prod(run.mesh.shape(chips)[:2])
    following = [n for n in range(run.accumulate + 1, rows + 1) if rows % n == 0]
    if not following:
        return None
    run = dataclasses.replace(run, accumulate=following[0])
    return f"accumulate={run.accumulate}", run


def describe(run, compiled):
    """Lines for people."""
    from lmlab.training.sharding import AXES

    mesh = dict(zip(AXES, run.mesh.shape(compiled.chips), strict=True))
    layout = ", ".join(f"{axis} {size}" for axis, size in mesh.items())
    yield f"{compiled.topology}, {compiled.chips} chips ({layout}); compiled in {compiled.seconds:.0f} s"
    if not compiled.fits:
        yield f"does not fit: {_gb(compiled.needed_bytes)} of HBM per chip, of {_gb(compiled.limit_bytes)}."
        yield "The largest arrays of the step, over all chips and before any are fused:"
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
    if step_seconds(compiled) and not compiled.quick:
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


def fit(run, topology, slices=1, show=print, quick=False):
    """Compile `run`, then ever smaller ones until one fits; the (what was changed, Run, Compiled) that did, or the last."""
    changed = []
    while True:
        compiled = compile_step(run, topology, slices, quick=quick)
        for line in describe(run, compiled):
            show(line)
        following = None if compiled.fits else smaller(run, compiled)
        if following is None:
            return ", ".join(changed), run, compiled
        change, run = following
        changed = [c for c in changed if c.partition("=")[0] != change.partition("=")[0]] + [change]
        show(f"trying {', '.join(changed)}")


HEADER = (
    "| arm | mesh | changed to fit | HBM per chip | compiled FLOPs over counted | predicted step | utilisation | kernels | "
    "compiled in |\n|---|---|---|--:|--:|--:|--:|---|--:|"
)


def row(name, changed, run, compiled):
    """One line under `HEADER`."""
    mesh = f"{compiled.topology}, {' x '.join(str(n) for n in run.mesh.shape(compiled.chips))}"
    seconds = f"{compiled.seconds:,.0f} s"
    if not compiled.fits:
        return f"| {name} | {mesh} | {changed} | {_gb(compiled.needed_bytes)}, too much | | | | | {seconds} |"
    step_bytes = run.batch_size * run.length * run.tokenizer.bytes_per_token
    flops = compiled.product_flops + sum(flops for *_, flops in compiled.kernels.values())
    ratio = flops * compiled.chips / step_bytes / (3 * sum(run.flops_per_byte().values()))
    predicted = ("", "")
    if step_seconds(compiled) and not compiled.quick:
        predicted = (f"{1e3 * sum(step_seconds(compiled).values()):,.0f} ms", f"{utilisation(run, compiled):.2f}")
    cells = (name, mesh, changed, _gb(compiled.needed_bytes), f"{ratio:.2f}", *predicted)
    return "| " + " | ".join([*cells, ", ".join(sorted(compiled.kernels)), seconds]) + " |"


def not_compiled(name, topology, why):
    """The line under `HEADER` of an arm that was not compiled."""
    return f"| {name} | {topology} | not compiled: {why} | | | | | | |"


def require_table(path):
    """The text of a file before the table under `HEADER`, and of the table and behind it; UserError if it has none."""
    path = pathlib.Path(path)
    before, found, rest = (path.read_text() if path.exists() else "").partition(HEADER + "\n")
    if not found:
        raise UserError(f"{path} has no table of compiled arms: no line starts with {HEADER.partition(' mesh')[0]!r}.")
    return before, rest


def put_row(path, line):
    """Write `line` into the table under `HEADER` in the file at `path`, in place of that arm's row if it has one.

    UserError if there is no such table."""
    path = pathlib.Path(path)
    before, rest = require_table(path)
    rows, gap, after = rest.partition("\n\n")
    rows = {row.split(" | ")[0]: row for row in [*rows.strip("\n").splitlines(), line] if row}
    path.write_text(before + HEADER + "\n" + "\n".join(rows.values()) + (gap + after or "\n"))
