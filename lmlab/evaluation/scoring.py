"""What a model assigns to every target of a text: the one place that evaluators get their nats from."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from lmlab.kernels.dispatch import compiled_for, mesh_of
from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.models.hierarchy import uncapped
from lmlab.models.language_model import forward


class Scores(NamedTuple):
    """Of one batch, as NumPy arrays."""

    nats_BL: np.ndarray  # float32, -log p of each target, 0 where the weight is 0
    best_BL: np.ndarray  # int32, the likeliest target
    starts: tuple  # per stage, bool [B, L]: a chunk starts at this input position


@partial(jax.jit, static_argnums=(0, 1))
def _forward(model, mesh, params, batch):
    with compiled_for(mesh, whole_rows=True):
        output = forward(model, params, batch)
    by_itself = getattr(output, "nats", None)  # of outputs that are no logits over ids
    nats_BL = by_itself(batch) if by_itself else softmax_cross_entropy(output.logits, batch["targets"])
    nats_BL = nats_BL * batch["weights"]
    best_BL = jnp.argmax(output.logits, axis=-1)
    return nats_BL, best_BL, tuple(s.start_BL for s in output.stages), _overflow(output)


def _overflow(output):
    """What found no slot: chunk starts of every stage, and positions that an encoder kept."""
    found = getattr(getattr(output, "encoded", None), "found", None)
    return sum((s.overflow for s in output.stages), getattr(found, "overflow", 0))


def score(model, params, batch):
    """Scores of one batch. Nothing is lost to the capacity: a batch that overflows is run again without one."""
    mesh = mesh_of(params)
    nats_BL, best_BL, starts, overflow = _forward(model, mesh, params, batch)
    if int(overflow):
        nats_BL, best_BL, starts, _ = _forward(uncapped(model), mesh, params, batch)
    return Scores(on_host(nats_BL), on_host(best_BL), tuple(on_host(s) for s in starts))


def on_host(x):
    """All rows as a NumPy array, whichever process's devices hold them."""
    return np.asarray(x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True))
