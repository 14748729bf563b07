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
from lmlab.objectives.deletion import DeletionRate
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.optimizers import AdamW
from lmlab.training.run import Run
from lmlab.training.sharding import make_mesh
from lmlab.training.step import make_init, make_step


@pytest.mark.parametrize("target", [0.3, 0.5])
def test_the_controller_reaches_its_rate(target):
    text = pathlib.Path(pydoc.__file__).read_bytes()
    model = t5(272, (2, 1), 32, 64, 2, 16, null=True, encoder=DeletingEncoder, gate=LearnedGate(32, 3.0), before=1)
    run = Run(
        model=model,
        corpus=None,
        tokenizer=ByteTokenizer(),
        optimizer=AdamW(1e-3),
        steps=400,
        batch_size=8,
        length=64,
        corruption=SpanCorruption(mean_span=5.0),
        objective=DeletionRate(target, 0.02, 1e-4, both_ways=True),
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
    assert shares[0] < target - 0.15
    assert abs(np.mean(shares[300:]) - target) < 0.06
    assert abs(np.mean(shares[-20:]) - target) < 0.1
