"""Tags are the first bytes of pieces, in their own document; distilling them moves the tagger alone, and teaches it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmlab.models.boundaries import BoundaryPredictor
from lmlab.models.build import hierarchy
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.segments import StraightThroughMean
from lmlab.models.unpool import Add
from lmlab.objectives.boundaries import Distilled, PieceStarts
from lmlab.text.cuts import BPECuts
from tests.parameters import moved

LENGTH = 24
BODY = hierarchy(["T1", ["T1"], "T1"], (16, 16), (32, 32), 2, target=3.0, capacity=None,
                 chunker=lambda width, target: BoundaryPredictor(width, 16, target),
                 pool=StraightThroughMean, unpool=Add)  # fmt: skip
MODEL = LanguageModel(256, BODY)


@functools.cache
def batch():
    """Rows of two documents: words of two pieces, in an order drawn by chance."""
    rng, words = np.random.default_rng(0), [b" footbal", b" ballfoo", b" foofoot", b" ball"]
    tokenizer = BPECuts(pieces=266).train([b" ball ball foot foot football" * 20])
    segments = np.repeat([[1] * 10 + [2] * 12 + [0] * 2], 8, axis=0)
    rows = [b"".join(words[i] for i in rng.integers(len(words), size=6))[:LENGTH] for _ in segments]
    made = {"tokens": np.array([list(row) for row in rows], np.int32), "segment_ids": segments.astype(np.int32)}
    made |= tokenizer.annotate(made)
    return made | {
        "targets": np.roll(made["tokens"], -1, 1),
        "weights": (segments > 0).astype(np.float32),
        "target_bytes": (segments > 0).astype(np.int32),
    }


def test_tags_are_the_bytes_behind_cuts():
    wanted = np.asarray(PieceStarts().wanted(None, jax.tree.map(jnp.asarray, batch())))
    cuts, segments = batch()["cuts"], batch()["segment_ids"]
    for row in range(len(wanted)):
        for t in range(LENGTH):
            inside = t > 0 and segments[row, t] == segments[row, t - 1]
            assert not segments[row, t] or wanted[row, t] == bool(inside and cuts[row, t - 1])
    assert 0.1 < wanted.mean() < 0.6


@pytest.fixture(scope="module")
def learned():
    """(whether each parameter had a gradient in the first step, tags' nats per position in each of 80 steps)."""
    made, optimizer = jax.tree.map(jnp.asarray, batch()), optax.adam(1e-2)

    def loss(params):
        total, weight, _ = Distilled()(MODEL, params, made, None)
        return total / weight

    def step(carry, _):
        params, state = carry
        nats, gradients = jax.value_and_grad(loss)(params)
        changes, state = optimizer.update(gradients, state)
        moves = jax.tree.map(lambda g: jnp.any(g != 0), gradients)
        return (optax.apply_updates(params, changes), state), (nats, moves)

    params = moved(init(MODEL, jax.random.key(0)), 0.05)
    train = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), length=80)[1])
    nats, moves = jax.device_get(train(params))
    return jax.tree.map(lambda m: bool(m[0]), moves), nats


def test_the_distillation_reaches_the_tagger_alone(learned):
    for path, moves in jax.tree_util.tree_flatten_with_path(learned[0])[0]:
        name = jax.tree_util.keystr(path)
        assert moves == Distilled.reaches(name), name


def test_the_tagger_learns_its_teacher(learned):
    assert learned[1][-1] < min(0.3 * learned[1][0], 0.2)
