"""Training on in another language leaves the run's model alone, learns the new text and tells what was forgotten."""

import jax
import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import Data
from lmlab.models.language_model import init
from lmlab.training.continued import Continued
from lmlab.training.loop import train
from tests.training import tiny


def test_the_other_language_is_learnt_and_the_first_forgotten(tmp_path):
    run = tiny.plain(tmp_path)
    data = Data(bake(run.corpus, run.tokenizer, str(tmp_path / "cache")), run.length, run.batch_size)
    params = init(run.model, jax.random.key(0))
    before = jax.device_get(params)
    first = Continued(steps=30, learning_rate=3e-3, max_bytes=2000)(run.model, params, data)
    assert first["target/after"] < first["target/half"] < first["target/before"] and first["forgotten"] < 0
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(params))
    other = tmp_path / "other"
    other.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        (other / f"{i}.txt").write_bytes(bytes(rng.integers(200, 203, 60, dtype=np.uint8)))
    values = Continued(str(other), steps=30, learning_rate=3e-3, max_bytes=2000)(run.model, params, data)
    assert values["target/after"] < 0.5 * values["target/before"] and values["source/after"] > first["source/after"]
    assert values["forgotten"] == values["source/after"] - values["source/before"]
    with pytest.raises(UserError, match="too few documents"):
        Continued(str(other / "0.txt"))(run.model, params, data)


def test_a_corpus_that_is_not_there_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    run = tiny.plain(tmp_path, evaluators=(Continued(str(tmp_path / "gone")),))
    with pytest.raises(UserError, match="There is no corpus at"):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
