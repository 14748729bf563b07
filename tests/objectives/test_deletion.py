"""MrT5's controller brings the share of deleted positions to its target, from either side, in a model that learns."""

import pathlib
import pydoc

import jax
import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.batches import TrainBatches
from lmlab.data.corruptions import SpanCorruption
from lmlab.models.deletion import DeletingEncoder, LearnedGate
from lmlab.models.encoder_decoder import t5
from lmlab.models.language_model import init
from lmlab.models.t5 import UNIT, relative_bucket
from lmlab.objectives.deletion import DeletionPull, DeletionRate
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.optimizers import AdamW
from lmlab.training.run import Run
from lmlab.training.sharding import make_mesh
from lmlab.training.step import make_init, make_step


def test_a_pull_begins_at_its_step():
    objective = DeletionPull(0.5, 3)
    state, weights = objective.init_state(), []
    for _ in range(6):
        weights.append(float(objective.alpha(state)))
        state = objective.next_state(state, {"deleted": 1.0, "deleted_of": 2.0})
    assert weights == [0, 0, 0, 0.5, 0.5, 0.5]


def test_the_price_of_large_scores():
    """It is that of the attention behind the gate, relative biases included, and of the decoder's to the encoder, and of no
    other; the gate takes no part."""
    model = t5(256, (3, 2), 32, 64, 2, 16, null=True, encoder=DeletingEncoder, gate=LearnedGate(32, 3.0), before=1)
    params = jax.tree.map(lambda x: 3 * x, init(model, jax.random.key(0)))
    assert set(params) == {"params"}
    rng, shape = np.random.default_rng(0), (2, 12)
    ids = {name: rng.integers(97, 123, shape) for name in ("inputs", "tokens", "targets")}
    segments = np.array([[1] * 5 + [2] * 6 + [0], [1] * 12])
    batch = ids | {"segment_ids": segments, "input_segment_ids": segments, "target_bytes": np.ones(shape)}
    batch["weights"] = (segments > 0).astype(np.float32)

    def loss(params, **price):
        objective = DeletionPull(0.1, **price)
        return objective(model, params, batch, None, objective.init_state())[0]

    far = relative_bucket(np.arange(12) - np.arange(12)[:, None], True)
    relative = UNIT * np.moveaxis(np.asarray(params["params"]["encoder"]["relative"]["table"])[far], 2, 0)
    assert np.abs(relative).max() > 0.5
    # The scores of each attention, from what its block reads.
    _, read = model.apply(params, ids["tokens"], segments, ids["inputs"], segments, capture_intermediates=True)
    read, expected = read["intermediates"], []
    for where, name, norm in (("encoder", "attention", "norm1"), ("decoder", "cross", "norm2")):
        for i in range(1, 3) if where == "encoder" else range(2):
            block = params["params"][where][f"blocks_{i}"]
            queries = read[where][f"blocks_{i}"][norm]["__call__"][0]
            keys = queries if where == "encoder" else read["encoder"]["norm"]["__call__"][0]
            q, k = (np.einsum("bld,dhk->blhk", x, block[name][w]) for x, w in ((queries, "wq"), (keys, "wk")))
            bias = relative if where == "encoder" else 0.0
            over = np.maximum(np.einsum("blhk,bmhk->bhlm", q, k) + bias - 5, 0).mean(axis=1)
            alike = (segments[:, :, None] == segments[:, None]) & (segments[:, None] > 0)  # padding has no scores
            expected.append(over[alike].mean())
    difference = (loss(params, excess=5.0) - loss(params)) / batch["weights"].sum()
    assert np.mean(expected) > 0.1
    np.testing.assert_allclose(difference, 5 * np.mean(expected), rtol=1e-4)


@pytest.mark.parametrize("target", [0.3, 0.5])
def test_the_controller_reaches_its_rate(target):
    text = pathlib.Path(pydoc.__file__).read_bytes()
    model = t5(272, (2, 1), 32, 64, 2, 16, null=True, encoder=DeletingEncoder, gate=LearnedGate(32, 3.0), before=1)
    run = Run(
        model=model,
        corpus=None,
        tokenizer=ByteTokenizer(),
        optimizer=AdamW(3e-3),
        steps=600,
        batch_size=8,
        length=64,
        corruption=SpanCorruption(mean_span=5.0, whole=True),
        objective=DeletionRate(target, 0.02, 1e-5),
    )
    windows = run.corruption.windows(stream_of([text], run.tokenizer), run.length, run.tokenizer)
    batches, mesh = TrainBatches(windows, run.batch_size, 0), make_mesh(run.mesh)
    optimizer = run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, mesh)
    step = make_step(run, optimizer, mesh, shardings)
    state, shares = init(jax.random.key(0)), []
    for i in range(run.steps):
        state, metrics = step(state, batches.batch(i))
        shares.append(float(metrics["deleted"] / metrics["deleted_of"]))
    assert shares[0] < 0.1
    assert abs(np.mean(shares[450:]) - target) < 0.06
    assert abs(np.mean(shares[-20:]) - target) < 0.1
