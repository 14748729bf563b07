"""Misspelt words around hidden ones: the same words are asked for, by every kind of model."""

import dataclasses

import jax
import numpy as np

from lmlab import experiment
from lmlab.data.bake import bake
from lmlab.evaluation import misspellings
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.misspellings import Misspellings
from lmlab.models.language_model import init
from lmlab.text.bpe import BPE
from tests.training import tiny


def test_every_arm_is_asked_for_the_same_words(tmp_path, monkeypatch):
    corpus, recipe, asked, results = tiny.corpus(tmp_path), BPE(290), {}, {}
    baked = bake(corpus, recipe, str(tmp_path / "cache"))
    scored = misspellings.bits_per_byte

    def seen(model, params, windows, data, see):
        def both(batch, scores):
            hidden = batch["target_bytes"] > 0
            asked.setdefault(name, []).append([batch["targets"][r][hidden[r]].tolist() for r in range(len(hidden))])
            see(batch, scores)

        return scored(model, params, windows, data, both)

    monkeypatch.setattr(misspellings, "bits_per_byte", seen)
    for name in ("bert", "charbert"):
        run = experiment.load("charbert").resolve(name, "smoke")
        model = run.model.clone(vocab_size=baked.tokenizer.vocab_size + 1)
        data = dataclasses.replace(Data(baked, 40, 4), corruption=run.corruption)
        params = init(model, jax.random.key(0))
        results[name] = Misspellings(max_bytes=2000, noise=0.3)(model, params, data)
    assert asked["bert"] == asked["charbert"]
    half = len(asked["bert"]) // 2
    assert asked["bert"][:half] == asked["bert"][half:]  # of the text as it is, and of the misspelt one
    assert "restored" in results["charbert"] and "restored" not in results["bert"]
    for values in results.values():
        assert np.isfinite(list(values.values())).all() and 0 <= values["clean_accuracy"] <= 100
        assert abs(values["clean_bpb"] - values["misspelt_bpb"] + values["bits_cost"]) < 1e-9
        assert values["bits_cost"] != 0
