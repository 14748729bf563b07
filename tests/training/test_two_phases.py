"""What a run carries besides parameters: the state of its objective, and the parameters of a run before it.
Both survive a stop, bit for bit."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from lmlab.data.corruptions import SpanCorruption
from lmlab.data.synthetic import Brackets
from lmlab.errors import Stopped, UserError
from lmlab.evaluation.bits_per_byte import BitsPerByte, Robustness
from lmlab.evaluation.deletion import HardDeletion
from lmlab.models.deletion import DeletingEncoder, LearnedGate
from lmlab.models.encoder_decoder import t5
from lmlab.objectives.deletion import DeletionRate
from lmlab.runner import load_run, run_arm
from lmlab.training import loop
from lmlab.training.loop import train
from tests.training import tiny


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))


def deleting(tmp_path, **changes):
    """A small MrT5."""
    model = t5(272, (2, 1), 16, 32, 2, 8, null=True, encoder=DeletingEncoder, gate=LearnedGate(16), before=1)
    return dataclasses.replace(
        tiny.plain(tmp_path),
        model=model,
        corruption=SpanCorruption(mean_span=3.0),
        objective=DeletionRate(0.5, 0.5, 0.1, True),
        **changes,
    )


def stopped_at(step, monkeypatch, run, path):
    """`run`, stopped at `step`."""
    calls, place = [], loop.place

    def counting(*args):
        calls.append(None)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return place(*args)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "place", counting)
        train(run, path)


def assert_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_a_controller_resumes_bit_for_bit(tmp_path, monkeypatch):
    run = deleting(tmp_path, evaluators=(BitsPerByte("test"), Robustness("test", 2000), HardDeletion("test")))
    result = run_arm(run, str(tmp_path / "whole"), "mrt5")
    logged = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["deleted"] <= 1 for line in logged if line["kind"] == "train")
    assert 0 < result["metrics"]["deleted"] < 1 and np.isfinite(result["metrics"]["hard_bpb"])
    assert result["metrics"]["bytes_per_token"] == 1.0 and result["sample"] == "" and result["passages"] == []
    stopped_at(5, monkeypatch, run, tmp_path / "stopped")
    params, _ = train(run, tmp_path / "stopped")
    assert_equal(params, load_run(str(tmp_path / "whole"))[2])
    without = dataclasses.replace(run, objective=dataclasses.replace(run.objective, k_p=0.0, k_i=0.0))
    other, _ = train(without, tmp_path / "without")
    gates = [p["params"]["encoder"]["gate"]["w"] for p in (params, other)]
    assert (np.asarray(gates[0]) != np.asarray(gates[1])).any()  # the controller did something


def test_a_run_after_another_starts_from_its_parameters(tmp_path, monkeypatch):
    first = deleting(tmp_path, corpus=Brackets(20, 500), evaluators=())
    second = dataclasses.replace(deleting(tmp_path, steps=4), after=first)
    train(second, tmp_path / "whole")
    alone, _ = train(first, tmp_path / "first")
    assert_equal(load_run(str(tmp_path / "whole-before"))[2], alone)
    tiny_step = dataclasses.replace(second.optimizer, learning_rate=1e-9, weight_decay=0.0)
    still, _ = train(dataclasses.replace(second, optimizer=tiny_step), tmp_path / "still")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), still, alone)
    stopped_at(10, monkeypatch, second, tmp_path / "stopped")  # in the second phase, at step 2 of 4
    lines = (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["kind"] == "stopped"
    params, _ = train(second, tmp_path / "stopped")
    assert_equal(params, load_run(str(tmp_path / "whole"))[2])


def test_a_run_after_one_of_another_model(tmp_path):
    with pytest.raises(UserError, match="the same model"):
        dataclasses.replace(deleting(tmp_path), after=tiny.plain(tmp_path))
