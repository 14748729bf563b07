"""One step, however it is computed: in microbatches, or with every block computed again backward."""

import dataclasses

import jax
import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.training.sharding import batch_sharding, check_rows, make_mesh, place
from lmlab.training.step import make_init, make_step
from tests.training import tiny


def two_steps(run):
    mesh = make_mesh(run.mesh, jax.devices()[:1])
    optimizer = run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, mesh)
    step, state = make_step(run, optimizer, mesh, shardings), init(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(97, 110, (8, 33)).astype(np.int32)
    weights = np.ones((8, 32), np.float32)
    weights[:3, 7:] = 0  # microbatches of different weights
    segments = np.broadcast_to(np.where(np.arange(32) < 20, 1, 2), (8, 32)).astype(np.int32)
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segment_ids": segments, "weights": weights}
    batch = place(batch | {"target_bytes": weights.astype(np.int32)}, batch_sharding(mesh))
    for _ in range(2):
        state, metrics = step(state, batch)
    return jax.device_get((state.params, metrics))


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"remat": True}, {"accumulate": 2, "remat": True}])
def test_every_way_gives_the_same_step(changes, tmp_path):
    run = tiny.run(tmp_path)
    chunker = run.model.backbone.chunker.clone(ratio_weight=0.0)  # its loss averages over a microbatch
    run = dataclasses.replace(run, model=run.model.clone(backbone=run.model.backbone.clone(chunker=chunker)))
    (params, metrics), (expected, expected_metrics) = two_steps(dataclasses.replace(run, **changes)), two_steps(run)
    assert metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, expected)


def test_microbatches_that_do_not_divide_the_batch(tmp_path):
    run = tiny.run(tmp_path, accumulate=3)
    with pytest.raises(UserError, match="8 rows does not divide over 1 devices in 3 microbatches"):
        check_rows(run, make_mesh(run.mesh, jax.devices()[:1]))
