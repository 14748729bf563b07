"""Rows that share slots give what rows with a slot for every position give, with every pool, unpool and inner network of
all arms."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab import experiment
from lmlab.models.hierarchy import FULLEST, Hierarchy, uncapped
from lmlab.models.language_model import init
from tests.kinds import one_of_each, parts
from tests.models.test_causality import text
from tests.parameters import moved

ROWS, LENGTH = 8, 96


JOINED = ("pool", "unpool", "inner", "mixer")  # what works on joined rows


def modules(model):
    """A module's parts, by name."""
    parts = {name: getattr(model, name) for name in model.__dataclass_fields__ if name != "parent"}
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def outermost(model):
    """The first hierarchy in a model, or None."""
    if isinstance(model, Hierarchy):
        return model
    return next(filter(None, map(outermost, modules(model).values())), None)


def exact(model, factors):
    """The model with these capacities in every stage."""
    changes = {name: exact(part, factors) for name, part in modules(model).items()}
    return model.clone(**changes, **{"capacity": factors} if isinstance(model, Hierarchy) else {})


def hierarchies():
    """Types of parts that work on joined rows, and the paths of their arms."""
    for name in experiment.names():
        for arm in experiment.load(name).at("smoke"):
            run = experiment.load(name).resolve(arm.name, "smoke")
            if isinstance(run, experiment.Run) and outermost(run.model):
                yield {part[1:3] for part in parts(run.model) if part[1:2] and part[1] in JOINED}, f"{name}/{arm.name}"


@pytest.mark.parametrize("path", one_of_each(hierarchies()))
def test_shared_slots_change_nothing(path):
    found, arm = experiment.find(path)
    model = uncapped(found.resolve(arm, "smoke").model)
    params = moved(init(model, jax.random.key(0)), 0.05)
    tokens = text(model, (ROWS, LENGTH))
    tokens[1] = text(model, (1, 1), 3)[0, 0]  # unlike rows
    bounds = np.array([[LENGTH, LENGTH], [11, 30], [40, 88], [7, LENGTH]] * 2)
    segments = 1 + sum((np.arange(LENGTH) >= bound[:, None]).astype(np.int32) for bound in bounds.T)
    segments[2::4, 88:] = 0

    @functools.partial(jax.jit, static_argnums=0)
    def result(model, params):
        def loss(params):
            out = model.apply(params, tokens, segments)
            seen_BLV = jnp.where(segments[..., None] > 0, out.logits, 0)
            return jnp.sum(jnp.sin(seen_BLV)) + sum(s.auxiliary for s in out.stages), (seen_BLV, out.stages)

        (_, (logits, stages)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        decided = [(jnp.where(segments > 0, s.start_BL, False), s.starts, s.overflow) for s in stages]
        return (logits, decided, gradient), stages

    expected, stages = result(model, params)
    most, hierarchy = np.asarray(stages[0].start_BL).sum(1).reshape(2, 4), outermost(model)
    needed = max(most.sum(1).max() / 4, most.max() / FULLEST[0])  # so that rows have hardly a slot more than they need
    fits = needed * hierarchy.chunker.positions_per_chunk / LENGTH
    got, (outer, *_) = result(exact(model, (fits, 8.0)), params)
    assert outer.slots < stages[0].slots
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5 + 4e-6 * np.abs(b).max()), got, expected)
