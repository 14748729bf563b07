"""Averages of models: what two models that are one give, and no average is worse than the mean of its members' bits."""

import dataclasses
import types

import jax
import pytest

from lmlab import experiment, runner
from lmlab.decoding.exact_bytes import ExactBytes
from lmlab.errors import UserError
from lmlab.evaluation.averages import Averages
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, count_parameters, init
from lmlab.text.bpe import train_bpe
from tests.parameters import moved

TEXTS = [b"the cat sat on the mat", b"another cat", b"mat " * 9]
STUDY = Averages(None, first=types.SimpleNamespace(batch_size=2), documents=3, size=12)


def trained(vocab_size, seed):
    """(model, params, data) with predictions that are far from even."""
    tokenizer = train_bpe(TEXTS * 20, vocab_size)
    model = LanguageModel(tokenizer.vocab_size, transformer(1, 16, 32, 2))
    baked = types.SimpleNamespace(documents=lambda split: iter(TEXTS), tokenizer=tokenizer)
    return model, moved(init(model, jax.random.key(seed)), 0.15), types.SimpleNamespace(baked=baked)


def test_a_model_averaged_with_itself_is_itself():
    model, params, data = one = trained(264, 0)
    found = STUDY.measure(first=one, second=one)
    text = [t[:12] for t in TEXTS]
    nats = -ExactBytes(model, params, data.baked.tokenizer, text, 0).log_probs().sum()
    bits = nats / 0.6931471805599453 / sum(map(len, text))
    for name in ("first_bpb", "second_bpb", "mixture_bpb", "product_bpb"):
        assert found[name] == pytest.approx(bits, rel=1e-6)
    assert found["gain"] == pytest.approx(0, abs=1e-6)


def test_averages_need_no_more_bits_than_their_members_on_average():
    found = STUDY.measure(first=trained(264, 0), second=trained(270, 1))
    assert found["first_bpb"] != pytest.approx(found["second_bpb"], rel=1e-3)
    mean = (found["first_bpb"] + found["second_bpb"]) / 2
    assert found["mixture_bpb"] < mean and found["product_bpb"] < mean
    best = min(found["first_bpb"], found["second_bpb"])
    assert found["gain"] == pytest.approx(100 * (1 - found["mixture_bpb"] / best))


def test_its_models_are_trained_beside_it_and_take_its_seed_and_corpus(tmp_path):
    study = experiment.load("exact_byte").resolve("average", "smoke", seed=3, corpus=str(tmp_path))
    assert study.precursors("runs/a") == {"first": (study.first, "runs/a-first"), "second": (study.second, "runs/a-second")}
    assert study.first.seed == study.second.seed == study.seed == 3
    assert study.first.corpus == study.second.corpus == study.corpus and study.corpus.path == str(tmp_path)


def test_bad_text_leaves_nothing_behind(tmp_path):
    found = experiment.load("exact_byte")
    with pytest.raises(UserError, match="nowhere"):
        study = found.resolve("average", "smoke", corpus=str(tmp_path / "nowhere"))
        runner.run_arm(study, str(tmp_path / "run"), "average")
    study = found.resolve("average", "smoke", ["corpus.max_bytes=1000"])
    with pytest.raises(UserError, match="read one corpus"):
        runner.run_arm(study, str(tmp_path / "run"), "average")
    assert not list(tmp_path.iterdir())


def test_what_its_models_took_is_its_own_cost(tmp_path):
    study = experiment.load("exact_byte").resolve("average", "smoke")
    first = dataclasses.replace(study.first, steps=2)
    study = dataclasses.replace(study, first=first, second=first, documents=2, size=4)
    result = runner.run_arm(study, str(tmp_path / "run"), "average")
    assert result["steps"] == 4 and result["parameters"] == 2 * count_parameters(first.model)
    assert result["train_bytes"] > 0 and result["train_flops"] > 0 and result["metrics"]["gain"] == 0
