"""The loop as a whole: exact resume, the run directory, and what it refuses."""

import dataclasses
import json
import os
import time

import jax
import numpy as np
import pytest

import lmlab
from lmlab import config
from lmlab.errors import UserError
from lmlab.training.loop import train
from tests.training import tiny


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    old = os.environ.get("LMLAB_CACHE")
    os.environ["LMLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("LMLAB_CACHE") if old is None else os.environ.update(LMLAB_CACHE=old)


def lines(directory):
    """Metrics without the clock."""
    every = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [tiny.timeless(line) for line in every if line["kind"] != "goodput"]


def assert_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


class Stop(Exception):
    pass


def test_resume_equals_never_having_stopped(tmp_path):
    run = tiny.run(tmp_path)
    whole, _ = train(run, tmp_path / "whole")

    def stop(step, values):
        if step >= 6:
            raise Stop

    with pytest.raises(Stop):
        train(run, tmp_path / "parts", stop)
    assert lines(tmp_path / "parts")[-1]["step"] == 6  # past the checkpoint of step 4
    parts, _ = train(run, tmp_path / "parts")
    assert_equal(whole, parts)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    # A finished run is left as it is.
    again, _ = train(run, tmp_path / "whole")
    assert_equal(whole, again)


def test_loss_falls_and_run_directory_is_complete(tmp_path):
    run = tiny.run(tmp_path, steps=40, evaluate_every=20, checkpoint_every=20)
    train(run, tmp_path / "run")
    train_lines = [line for line in lines(tmp_path / "run") if line["kind"] == "train"]
    assert train_lines[-1]["bpb"] < 0.8 * train_lines[0]["bpb"]
    assert config.from_json(json.loads((tmp_path / "run" / "run.json").read_text())) == run
    assert (tmp_path / "run" / "run.txt").read_text().startswith("Run\n")
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    model, params = lmlab.load(str(tmp_path / "run"))
    assert model.apply(params, np.zeros((2, 5), np.int32)).logits.shape == (2, 5, 256)


def test_bytes_are_counted_exactly(tmp_path):
    """One epoch of training covers every source byte of the train split once."""
    from lmlab.data.bake import bake
    from lmlab.data.batches import Windows

    run = tiny.run(tmp_path)
    baked = bake(run.corpus, run.tokenizer)
    n = len(Windows(baked.split("train"), run.length, baked.tokenizer))
    run = dataclasses.replace(run, batch_size=1, steps=n, log_every=n, checkpoint_every=n, evaluate_every=n)
    train(run, tmp_path / "run")
    assert lines(tmp_path / "run")[0]["bytes"] == baked.source_bytes("train")


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(seed=1), "holds another run"),
        (dict(batch_size=6, mesh=None), "does not divide"),
    ],
)
def test_refusals(tmp_path, change, sentence):
    run = tiny.run(tmp_path, steps=2, checkpoint_every=2, evaluate_every=2)
    train(run, tmp_path / "run")
    if "mesh" in change:
        from lmlab.training.sharding import Mesh

        change = change | {"mesh": Mesh(data=-1, fsdp=3)}
    before = time.monotonic()
    with pytest.raises(UserError, match=sentence):
        train(dataclasses.replace(run, **change), tmp_path / "run")
    assert time.monotonic() - before < 5  # before any compilation


def test_foreign_directory_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not empty"):
        train(tiny.run(tmp_path), tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
