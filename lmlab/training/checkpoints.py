"""Orbax checkpoints (its v1 API) behind a few calls, and models without a run: a description and parameters."""

import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (gives NumPy its bfloat16)
import numpy as np
from flax import traverse_util
from flax.linen import meta
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lmlab import config
from lmlab.errors import Interrupted, UserError
from lmlab.models.language_model import abstract_init
from lmlab.training import processes, seals

MODEL, PARAMETERS = "model.json", "params.safetensors"
# Seconds to write a checkpoint. Where one process fails, it and the others wait about twice as long, which must be less
# than the watchdog's patience: then all end with a sentence.
PATIENCE = 600


def folder(directory):
    """Where a run in `directory` keeps its checkpoints; absolute, as Orbax wants it."""
    return os.path.join(os.path.abspath(directory), "checkpoints")


@contextlib.contextmanager
def checkpointer(directory, keep_last=2, keep_every=0, read_only=False, periodic=0):
    """`Checkpoints` in `directory`, open; waits for pending writes on exit.

    Kept are the latest `keep_last`, for good those of steps that `keep_every` divides (0: none), and the latest that
    `periodic` divides (0: none). One that only reads leaves unfinished checkpoints alone: another process may be writing
    them.
    """
    from orbax.checkpoint import v1 as ocp

    keep = [ocp.training.preservation_policies.LatestN(keep_last)]
    if keep_every:
        keep.append(ocp.training.preservation_policies.EveryNSteps(keep_every))
    if periodic:
        keep.append(_LatestPeriodic(periodic))
    context = ocp.Context()
    context.async_options.timeout_secs = PATIENCE
    saved = Checkpoints(
        ocp.training.Checkpointer(
            directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=not read_only,
            context=context,
        )
    )
    quiet = logging.getLogger("absl")
    quiet.addFilter(_not_told_twice)
    try:
        yield saved
    finally:
        try:
            saved.close()
        finally:
            quiet.removeFilter(_not_told_twice)


class _LatestPeriodic:
    """Keeps the latest checkpoint that was due, however many a stop has added since: rollbacks return to it, so that a
    run that was stopped rolls back to where one that was not does."""

    def __init__(self, every):
        self._every = every

    def should_preserve(self, checkpoints, *, context):
        latest = max((c.step for c in checkpoints if c.step % self._every == 0), default=None)
        return [c.step == latest for c in checkpoints]


def _not_told_twice(record):
    """Orbax logs the stack of every thread that an error passes through, and then raises it; we tell it once."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


class Checkpoints:
    """Orbax's checkpointer, and the seal that each checkpoint gets once it is written."""

    def __init__(self, orbax):
        self.orbax = orbax
        self._thread, self._pending = concurrent.futures.ThreadPoolExecutor(1), None

    def write(self, step, arrays):
        """Begin to write; `arrays` may be changed once this returns."""
        try:
            response = self.orbax.save_pytree_async(step, arrays, overwrite=True)
        except Exception as error:
            raise self._failed(step, error) from error
        self._pending = step, self._thread.submit(self._finish, step, response)

    def _finish(self, step, response):
        response.result()
        if jax.process_index() == 0:
            seals.seal(os.path.join(self.orbax.directory, str(step)))

    def wait(self):
        """Until what is being written is on disk; `Interrupted` if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending[1].result()
            except Exception as error:
                raise self._failed(pending[0], error) from error

    def _failed(self, step, error):
        # A full disk reaches us as whatever the library below Orbax makes of it.
        reason = getattr(error, "strerror", None) or next(
            (os.strerror(e) for e in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if os.strerror(e) in str(error)), None
        )
        if reason is None and "timed out" in str(error) and jax.process_count() > 1:
            reason = "not every process has written its part in time"
        reason = reason or (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        where = f"the checkpoint of step {step} in {self.orbax.directory}"
        return Interrupted(f"Cannot write {where}: {reason}. The earlier ones are kept.")

    def close(self):
        """Wait, and let go."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            with contextlib.suppress(Exception):  # of the write that `wait` has just told of
                self.orbax.close()


def _stored(state, key):
    """The parts of a state that hold arrays, `key` for its key: typed keys are not arrays that can be stored, and what
    a run does not remember should not be asked for of checkpoints that know nothing of it."""
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)} | {"key": key}
    return {name: part for name, part in parts.items() if jax.tree.leaves(part)}


def save(c, state, step, wait=False):
    """Write `state` as step `step`, in the background unless `wait`. A step that is there already is left as it is."""
    processes.everywhere(c.wait)
    if step != latest_step(c):
        arrays = _stored(state, jax.random.key_data(state.key))
        size = sum(a.nbytes for a in jax.tree.leaves(arrays))
        processes.first(lambda: _require_space(c.orbax.directory, step, size))
        c.write(step, arrays)
    if wait:
        processes.everywhere(c.wait)


def _require_space(directory, step, size):
    """`Interrupted` where the disk has no room for `size` bytes. Better before than by an error from deep below Orbax."""
    free = shutil.disk_usage(directory).free
    if free < size:
        raise Interrupted(
            f"Cannot write the checkpoint of step {step} in {directory}: it takes {size:,} bytes and {free:,} are free. "
            "The earlier ones are kept."
        )


def latest_step(c):
    """Newest complete checkpoint, or None."""
    return None if c.orbax.latest is None else c.orbax.latest.step


def steps(directory):
    """Steps of the checkpoints below `directory`, whole or not, ascending."""
    return sorted(int(name) for name in os.listdir(directory) if name.isdigit()) if os.path.isdir(directory) else []


def newest_whole(directory, unread=False):
    """(newest step whose checkpoint is whole, or None; {later step: what is wrong with its checkpoint}). `unread`: look
    further where a checkpoint cannot be read, in place of raising `Interrupted`."""
    flaws = {}
    for step in reversed(steps(directory)):
        try:
            reason = seals.flaw(os.path.join(directory, str(step)))
        except Interrupted:
            if not unread:
                raise
            reason = "cannot be read"
        if reason is None:
            return step, flaws
        flaws[step] = reason
    return None, flaws


def set_aside(directory):
    """Move the checkpoints after the newest whole one to `damaged` beside `directory`; a sentence for each."""
    whole, flaws = newest_whole(directory)
    aside = os.path.join(os.path.dirname(directory), "damaged")
    for step in flaws:
        os.makedirs(aside, exist_ok=True)
        shutil.rmtree(os.path.join(aside, str(step)), ignore_errors=True)
        os.replace(os.path.join(directory, str(step)), os.path.join(aside, str(step)))
    instead = "training begins anew" if whole is None else f"training resumes from step {whole}"
    return [f"The checkpoint of step {s} {reason}; it is now in {aside}, and {instead}." for s, reason in flaws.items()]


def readable_step(directory):
    """(step to read, or None; sentences about later ones that are not whole). Changes nothing."""
    whole, flaws = newest_whole(directory, unread=True)
    return whole, [f"The checkpoint of step {s} in {directory} {reason}." for s, reason in flaws.items()]


def require_whole(directory, step):
    """`Interrupted` unless the checkpoint of `step` is whole."""
    reason = seals.flaw(os.path.join(directory, str(step)))
    if reason is not None:
        raise Interrupted(f"The checkpoint of step {step} in {directory} {reason}: training cannot go back to it.")


def restore(c, abstract, step=None):
    """The state of `step` (None: the newest) laid out as `abstract` (ShapeDtypeStructs with shardings)."""
    key = jax.eval_shape(jax.random.key_data, abstract.key)
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=abstract.key.sharding)
    try:
        parts = c.orbax.load_pytree(step, _stored(abstract, key))
    except (ValueError, FileNotFoundError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The checkpoint in {c.orbax.directory} does not fit this model: {reason}") from error
    return abstract.replace(**parts | {"key": jax.random.wrap_key_data(parts["key"])})


def save_model(directory, model, params, texts=None):
    """Write `model` and `params` (in their dtypes) as a new directory, whole or not at all.

    `texts`: further files, {name: content}. UserError if the directory exists or cannot be written.
    """
    directory = os.path.normpath(directory)
    absent(directory)
    new, texts = directory + ".new", {MODEL: json.dumps(config.to_json(model), indent=1)} | (texts or {})
    try:
        if os.path.isdir(new) and set(os.listdir(new)) <= {*texts, PARAMETERS}:
            shutil.rmtree(new)  # of an earlier call that was killed
        os.makedirs(new)
        try:
            for name, text in texts.items():
                with open(os.path.join(new, name), "w", encoding="utf-8") as f:
                    f.write(text)
            write_arrays(os.path.join(new, PARAMETERS), traverse_util.flatten_dict(params["params"], sep="/"))
            os.replace(new, directory)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"Cannot write {directory}: {error.strerror}.") from error


def absent(path):
    """UserError if there is something at `path`: what is converted never replaces anything."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists already: choose another name, or delete it.")


def is_model(directory):
    """Whether `save_model` wrote this directory."""
    return os.path.exists(os.path.join(directory, MODEL))


def load_model(directory):
    """(model, params) that `save_model` wrote, the parameters in the stored dtypes."""
    model = config.from_json(config.load_json(os.path.join(directory, MODEL)))
    path = os.path.join(directory, PARAMETERS)
    stored = read_arrays(path)
    try:
        expected = traverse_util.flatten_dict(meta.unbox(abstract_init(model))["params"], sep="/")
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{os.path.join(directory, MODEL)} does not describe a model.") from error
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in stored.items()}:
        raise UserError(f"{path} does not fit the model that {MODEL} beside it describes.")
    flat = {k: jnp.asarray(stored.pop(k)) for k in expected}
    return model, {"params": traverse_util.unflatten_dict(flat, sep="/")}


def read_arrays(path):
    """{name: array} of a .safetensors file."""
    try:
        with open(path, "rb"):
            return load_file(path)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (SafetensorError, TypeError) as error:  # TypeError: a dtype that NumPy does not have
        raise UserError(f"{path} is truncated or damaged: {str(error).splitlines()[0]}.") from error


def write_arrays(path, arrays, metadata=None):
    """The inverse of `read_arrays`. `metadata`: {name: text} for the file's header."""
    # safetensors writes an array's memory as it lies, whatever its strides.
    arrays = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    with open(path, "wb") as f:
        mode = os.fstat(f.fileno()).st_mode
    try:
        save_file(arrays, path, metadata)
        os.chmod(path, mode)  # safetensors leaves a file that only its owner reads
    except SafetensorError as error:
        raise UserError(f"Cannot write {path}: {error}.") from error
