"""Averages of models: what two models that are one give, and no average is worse than the mean of its members' bits."""

import types

import jax
import pytest

from lmlab.decoding.exact_bytes import ExactBytes
from lmlab.evaluation.averages import Averages
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
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
    from lmlab import experiment

    study = experiment.load("exact_byte").resolve("average", "smoke", seed=3, corpus=str(tmp_path))
    assert study.precursors("runs/a") == {"first": (study.first, "runs/a-first"), "second": (study.second, "runs/a-second")}
    assert study.first.seed == study.second.seed == study.seed == 3
    assert study.first.corpus == study.second.corpus == study.corpus and study.corpus.path == str(tmp_path)
