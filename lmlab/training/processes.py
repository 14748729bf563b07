"""Several processes as one: how they find one another, fail together and stop together."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmlab.errors import Interrupted, UserError

LONGEST = 1000  # bytes of a sentence that is passed on


def join(coordinator=None, processes=None, process=None):
    """Meet the other processes of this training; before anything asks for devices.

    What is not given comes from the machine: TPU slices, Slurm and others know it. UserError if nobody does, or if
    the others do not come.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        failure = Interrupted if isinstance(error, RuntimeError) else UserError  # the others did not come in time
        raise failure(
            f"The processes did not find one another ({reason}): see --coordinator, --processes and --process."
        ) from error


def all_devices():
    """Devices of all processes. UserError if those that were asked for are not there; JAX falls back to the CPU only
    where nothing was asked for."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter, without a word, where JAX has no such plugin
        reason = (str(error) or f"JAX finds no device for {jax.config.jax_platforms!r}").splitlines()[0].rstrip(".")
        raise UserError(f"The accelerator that was asked for is not there: {reason}.") from error


def several():
    """Whether there are others."""
    return jax.process_count() > 1


def is_first():
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def everywhere(function):
    """`function()`, in every process; a UserError or OSError in one is raised in all, so that none waits for one that is
    gone. Where it failed in several, each tells its own."""
    if jax.process_count() == 1:
        return function()
    result, sentence, broken = None, b"", False
    try:
        result = function()
    except (UserError, OSError) as error:
        sentence, broken = str(error).encode()[:LONGEST], isinstance(error, (Interrupted, OSError))
    sentences = multihost_utils.process_allgather(np.frombuffer(sentence.ljust(LONGEST), np.uint8))
    failed = np.any(multihost_utils.process_allgather(np.int32(broken)))
    for row in (np.frombuffer(sentence, np.uint8), *sentences):
        if text := row.tobytes().decode("utf-8", "ignore").rstrip():
            raise (Interrupted if failed else UserError)(text)
    return result


def first(function):
    """`function()` in the first process only, None in the others, which wait for it; a UserError is raised in all."""
    return everywhere(function if is_first() else lambda: None)


def from_first(*numbers):
    """The integers that the first process has."""
    if jax.process_count() == 1:
        return numbers
    return tuple(int(n) for n in multihost_utils.broadcast_one_to_all(np.asarray(numbers, np.int32)))


def gather(tree):
    """Arrays that are split over processes as NumPy arrays in each of them."""
    return tree if jax.process_count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def anywhere():
    """Returns a function: bool -> whether it was true in any process when all called it last.

    One call late, so that the device does not wait for the host; in one process at once.
    """
    if jax.process_count() == 1:
        return bool
    mesh = Mesh(np.asarray(jax.devices()), ("all",))
    each = NamedSharding(mesh, PartitionSpec("all"))
    most = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
    asked = [np.zeros((), np.int32)]

    def ask(flag):
        answer = bool(asked[0])
        here = np.full(jax.local_device_count(), flag, np.int32)
        asked[0] = most(jax.make_array_from_process_local_data(each, here))
        return answer

    return ask
