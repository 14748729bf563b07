"""Orbax checkpoints (its v1 API) behind a few calls."""

import contextlib

import jax

from lmlab.errors import UserError


@contextlib.contextmanager
def checkpointer(directory, keep=2):
    """An open checkpointer over `directory`, keeping the latest `keep`; waits for pending writes on exit."""
    from orbax.checkpoint import v1 as ocp

    c = ocp.training.Checkpointer(
        directory,
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        cleanup_tmp_directories=True,
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
