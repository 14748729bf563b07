"""Compile a function for a TPU on a machine without one, and read what the compiler says about it.

libtpu compiles for a described topology with no chip present. It runs in a child process on the CPU backend, one
child at a time on a machine. There `jax.default_backend()` is "cpu" though the target is a TPU: name the TPU kernel
itself, since a function that picks its kernel by the default backend compiles the CPU's.
"""

import contextlib
import dataclasses
import fcntl
import functools
import importlib
import importlib.util
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
import tempfile
import time

from lmlab.errors import UserError
from lmlab.kernels.hlo import read

TOPOLOGIES = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")  # the ones that the tests compile for; libtpu knows more

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server to ask which machine this is
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so another process that has libtpu is no obstacle
    "TPU_LOG_DIR": "disabled",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",  # whatever is compiled for this machine: what a TPU would run
    **dict.fromkeys(["TF_CPP_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL", "TPU_MIN_LOG_LEVEL"], "3"),
}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One `tpu_custom_call` of the compiled program: a Pallas kernel.

    Bytes are its operands plus its results, each counted whole and once however often the kernel's grid reads it,
    padded to its tiles, e.g. float32 [B, L, 1] to [B, 8 ceil(L / 8), 128]. A value that a kernel copies in parts
    counts whole too.
    """

    name: str  # of the instruction; `pallas_call(name=...)` sets it
    calls: int  # runs of it in one run of the program: trip counts of the loops around it, multiplied
    hbm_bytes: int  # of one call: operands and results in HBM
    vmem_bytes: int  # of one call: those that XLA holds on the chip, read or written by copies outside the kernel
    bundles: tuple[int, ...] | None  # its instructions, about a cycle each, by depth in loops: [1] is in the grid's


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compiler says of one program on one device."""

    function: str
    topology: str
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int  # HBM beyond arguments and outputs
    flops: float  # XLA's count: a loop's body once, a kernel's only if it states a cost
    cycles: int  # XLA's estimates, times the trip counts of loops; kernels have no estimate and count 0
    unknown_loops: int  # loops whose trip count could not be read: counted once
    kernels: tuple[Kernel, ...]
    seconds: float  # to trace and compile
    hlo: str = dataclasses.field(repr=False)


def available():
    """Is libtpu installed?"""
    return importlib.util.find_spec("libtpu") is not None


def compile_for_tpu(function, shapes, topology="v5e:2x2", gradient=False, options=None, bundles=False, timeout=600):
    """`Report` of `function`, "module:name" importable here, jitted for one device of `topology`.

    `shapes`: its positional arguments, trees whose leaves have `shape` and `dtype`. `options`: keyword arguments,
    static. `gradient`: compile the outputs with the gradients in all floating-point arguments, cotangents being
    arguments too. `bundles`: count each kernel's instructions, by way of hundreds of MB in a temporary folder.

    Errors: `UserError` without libtpu; `RuntimeError` with the child's last words if it fails, `TimeoutError` after
    `timeout` seconds.
    """
    return compile_each([(function, shapes, topology, gradient, options)], bundles, timeout)[0]


def need_libtpu():
    """UserError where libtpu is not installed."""
    if not available():
        raise UserError("Compiling for TPUs needs libtpu: pip install 'lmlab[tpu]'.")


def compile_each(programs, bundles=False, timeout=600):
    """`compile_for_tpu` of each (function, shapes[, topology[, gradient[, options]]]), in one child process."""
    import jax

    payload = []
    for function, shapes, *rest in programs:
        topology, gradient, options = (*rest, *("v5e:2x2", False, None)[len(rest) :])
        leaves = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), tuple(shapes))
        payload.append((function, leaves, topology, gradient, options or {}))
    reports = in_child("lmlab.kernels.aot", payload, bundles, timeout)
    return [Report(**r | {"kernels": tuple(_kernel(**k) for k in r["kernels"])}) for r in reports]


def in_child(module, payload, bundles=False, timeout=600):
    """Run `module` as a program that can compile for TPUs: it reads `payload`, pickled, from its standard input and
    leaves reports.json, which is returned, in the folder that it is given.

    Errors as of `compile_for_tpu`.
    """
    need_libtpu()
    with tempfile.TemporaryDirectory() as folder, _alone():
        environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        if bundles:
            flags = f"--xla_jf_dump_to={folder}/dump --xla_jf_dump_llo_text=true"
            environment["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {flags}"
        try:
            child = subprocess.run(
                [sys.executable, "-m", module, folder],
                input=pickle.dumps(payload),
                capture_output=True,
                env=environment,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"compiling for TPUs took more than {timeout} s") from error
        if child.returncode:
            raise RuntimeError(f"compiling for a TPU failed:\n{child.stderr.decode(errors='replace')[-4000:]}")
        return json.loads(pathlib.Path(folder, "reports.json").read_text())


def _kernel(bundles, **fields):
    return Kernel(**fields, bundles=bundles and tuple(bundles))


@contextlib.contextmanager
def _alone():
    with open(os.path.join(tempfile.gettempdir(), f"lmlab-libtpu-{os.getuid()}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# The child process


def _program(function, shapes, gradient, options):
    """The function to compile and the shapes of its arguments."""
    import jax
    import jax.numpy as jnp

    module, _, name = function.partition(":")
    call = functools.partial(getattr(importlib.import_module(module), name), **options)
    if not gradient:
        return call, shapes
    leaves, tree = jax.tree.flatten(shapes)
    floating = [jnp.issubdtype(v.dtype, jnp.floating) for v in leaves]

    def outputs(*args):
        return [v for v in jax.tree.leaves(call(*args)) if jnp.issubdtype(v.dtype, jnp.floating)]

    def program(args, cotangents):
        values = jax.tree.leaves(args)

        def of_floats(moving):
            moving = iter(moving)
            return outputs(*tree.unflatten([next(moving) if f else v for f, v in zip(floating, values, strict=True)]))

        out, pull = jax.vjp(of_floats, [v for f, v in zip(floating, values, strict=True) if f])
        return out, pull(cotangents)

    return program, (shapes, jax.eval_shape(outputs, *shapes))


def _bundles(folder, name):
    """Bundles by depth in loops, of the compiler's dump of an instruction; None without one."""
    dumps = [d for d in folder.glob(f"*-{name}-*final_bundles.txt") if "schedule-analysis" not in d.name]
    if not dumps:
        return None
    depths = [len(d) for d in re.findall(r"^ *(?:0x)?[0-9a-f]+ +[A-Z: ]*(>*) \{", dumps[0].read_text(), re.MULTILINE)]
    return tuple(depths.count(d) for d in range(max(depths) + 1))


def _compile(folder, function, shapes, topology, gradient, options):
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    program, shapes = _program(function, shapes, gradient, options)
    placed = SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=placed), shapes)
    began = time.monotonic()
    compiled = jax.jit(program).trace(*shapes).lower().compile()
    seconds = time.monotonic() - began
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    said = read(hlo)
    report = Report(
        function=function,
        topology=topology,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops=compiled.cost_analysis().get("flops", 0.0),
        cycles=said.cycles,
        unknown_loops=said.unknown_loops,
        kernels=tuple(
            Kernel(k.name, k.calls, k.hbm_bytes, k.vmem_bytes, _bundles(folder / "dump", k.name)) for k in said.kernels
        ),
        seconds=seconds,
        hlo=hlo,
    )
    for dumped in folder.glob("dump/*"):  # so that the next program's instructions of the same name are its own
        dumped.unlink()
    return dataclasses.asdict(report)


if __name__ == "__main__":
    _folder = pathlib.Path(sys.argv[1])
    _reports = [_compile(_folder, *program) for program in pickle.load(sys.stdin.buffer)]
    (_folder / "reports.json").write_text(json.dumps(_reports))
