"""Orbax checkpoints (its v1 API) behind a few calls, and models without a run: a description and parameters."""

import contextlib
import json
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
from lmlab.errors import UserError
from lmlab.models.language_model import abstract_init

MODEL, PARAMETERS = "model.json", "params.safetensors"


@contextlib.contextmanager
def checkpointer(directory, keep=2, read_only=False):
    """An open checkpointer over `directory`, keeping the latest `keep`; waits for pending writes on exit.

    One that only reads leaves unfinished checkpoints alone: another process may be writing them.
    """
    from orbax.checkpoint import v1 as ocp

    c = ocp.training.Checkpointer(
        directory,
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        cleanup_tmp_directories=not read_only,
    )
    try:
        yield c
    finally:
        c.close()


def _arrays(state):
    """Typed keys are not arrays that can be stored; their data is."""
    return state.replace(key=jax.random.key_data(state.key))


def save(c, state, step, wait=False):
    """Write `state` as step `step`, in the background unless `wait`."""
    if wait:
        c.save_pytree(step, _arrays(state), overwrite=True)
    else:
        c.save_pytree_async(step, _arrays(state), overwrite=True)


def latest_step(c):
    """Newest complete checkpoint, or None."""
    return None if c.latest is None else c.latest.step


def restore(c, abstract, step=None):
    """The state of `step` (None: the newest) laid out as `abstract` (ShapeDtypeStructs with shardings)."""
    key = jax.eval_shape(jax.random.key_data, abstract.key)
    target = abstract.replace(key=jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=abstract.key.sharding))
    try:
        state = c.load_pytree(step, target)
    except (ValueError, FileNotFoundError, KeyError) as error:
        raise UserError(f"The checkpoint in {c.directory} does not fit this model: {str(error).splitlines()[0]}") from error
    return state.replace(key=jax.random.wrap_key_data(state.key))


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


def write_arrays(path, arrays):
    """The inverse of `read_arrays`."""
    # safetensors writes an array's memory as it lies, whatever its strides.
    arrays = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    with open(path, "wb") as f:
        mode = os.fstat(f.fileno()).st_mode
    try:
        save_file(arrays, path)
        os.chmod(path, mode)  # safetensors leaves a file that only its owner reads
    except SafetensorError as error:
        raise UserError(f"Cannot write {path}: {error}.") from error
