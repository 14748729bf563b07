"""The chunking benchmark's runs are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.bench import chunking
from lmlab.experiment import load
from lmlab.models.language_model import init


def test_every_stride_chooses_among_the_same_capacities():
    run = load("hnet").resolve("hnet_1stage", "small")
    for n in chunking.STRIDES:
        assert chunking.strided(run, n).model.backbone.slots(512) == (32, 64, 128, 256, 512)


def test_the_parts_alone_are_measured():
    run = load("hnet").resolve("hnet_1stage", "smoke")
    measure = chunking.chunking_of(run)
    seconds = [measure(seed) for seed in range(2)]
    assert all(np.isfinite(seconds)) and min(seconds) > 0


@pytest.mark.parametrize("name", ["hnet_1stage", "hnet_2stage"])
def test_settled_runs_take_the_smallest_capacities(name):
    """Chunks are as many as planned, of unlike rows, and their parameters those of the arm."""
    run = load("hnet").resolve(name, "small")
    settled = chunking.settled(run)
    tokens = np.random.default_rng(0).integers(0, 256, (run.batch_size, run.length)).astype(np.int32)
    shapes, params = jax.eval_shape(init, run.model, jax.random.key(0)), init(settled.model, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    stages = jax.jit(settled.model.apply)(params, tokens).stages
    planned = run.batch_size * run.length
    for stage, backbone in zip(stages, (settled.model.backbone, settled.model.backbone.inner), strict=False):
        planned /= backbone.chunker.target
        factor = min(backbone.capacity)
        assert abs(int(stage.starts) / planned - 1) < 0.2
        assert factor * planned <= int(stage.slots) < 1.12 * factor * planned
    by_row = np.asarray(stages[0].start_BL).sum(1)
    assert 1.15 < by_row.max() / by_row.mean() < 1.45
