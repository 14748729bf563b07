"""Excerpts and cut prompts are counted as their definitions say."""

import math
import types

import jax
import numpy as np
import pytest

from lmlab.data.corruptions import NextTokens
from lmlab.data.infilling import FillIn
from lmlab.decoding.exact_bytes import ExactBytes, string_log_probs
from lmlab.errors import UserError
from lmlab.evaluation.exact_bytes import METHODS, CutGaps, CutPrompts, ExactBits
from lmlab.models.build import transformer
from lmlab.text import ByteTokenizer, train_bpe
from lmlab.text.infill import MARKS, SuffixFirst, ids_of
from tests.decoding.test_exact_bytes import random_model
from tests.text.test_canonical import TRAINING

DOCUMENTS = [TRAINING[0], b"it was as we're the rest of the text, the others' and the rest", b"x = 'a' + 'er' as was"]


def data_of(tokenizer):
    """What the evaluators look at."""
    baked = types.SimpleNamespace(tokenizer=tokenizer, documents=lambda split: iter(DOCUMENTS))
    return types.SimpleNamespace(baked=baked, batch_size=2, check=lambda: None)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TRAINING, 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_model(tokenizer.vocab_size)


def test_bits_of_excerpts(model, tokenizer):
    found = ExactBits(documents=3, size=20)(*model, data_of(tokenizer))
    texts, (module, params) = [d[:20] for d in DOCUMENTS], model
    size = sum(map(len, texts)) * math.log(2)
    assert found["exact_bpb"] == pytest.approx(-string_log_probs(module, params, tokenizer, texts).sum() / size, rel=1e-5)
    nats, apply = 0.0, jax.jit(module.apply)
    for text in texts:
        ids = tokenizer.encode(text)
        tokens = np.zeros((1, 24), np.int32)  # causal: what lies behind does not matter
        tokens[0, : len(ids) + 1] = tokenizer.bos, *ids
        log_p = np.asarray(jax.nn.log_softmax(apply(params, tokens).logits)[0])
        nats -= float(sum(log_p[i, token] for i, token in enumerate(ids)))
    assert found["encoding_bpb"] == pytest.approx(nats / size, rel=1e-5)
    assert found["exact_bpb"] < found["possible_bpb"] < found["encoding_bpb"]


def test_prompts_end_within_a_token(tokenizer):
    rng, cut = np.random.default_rng(0), CutPrompts(size=10, new=3)
    for document in DOCUMENTS:
        prompt, behind = cut._cut(document, tokenizer, rng)
        assert document.startswith(prompt + behind) and len(behind) == 3 and len(prompt) > 10
        assert len(prompt) not in tokenizer.byte_spans(tokenizer.encode(document))[:, 1]
    assert cut._cut(b"short", tokenizer, rng) is None


def test_bits_behind_cut_prompts(model, tokenizer):
    found = CutPrompts(prompts=3, size=10, new=2)(*model, data_of(tokenizer))
    assert set(found) == {f"cut/{method}{part}" for method in METHODS for part in ("", "/first")}
    rng, cut = np.random.default_rng(0), CutPrompts(size=10, new=2)
    prompts, behind = zip(*(cut._cut(d, tokenizer, rng) for d in DOCUMENTS), strict=True)
    whole = string_log_probs(*model, tokenizer, [p + b for p, b in zip(prompts, behind, strict=True)])
    nats = string_log_probs(*model, tokenizer, prompts) - whole
    assert found["cut/exact"] == pytest.approx(nats.sum() / (math.log(2) * 6), rel=1e-4)
    assert len({round(found[f"cut/{method}"], 6) for method in METHODS}) == 4


def test_gaps_are_asked_about_with_what_is_behind_them_in_the_context(tokenizer):
    model, data = random_model(tokenizer.vocab_size + len(MARKS), seed=2), data_of(tokenizer)
    data.corruption = FillIn(SuffixFirst())
    found = CutGaps(prompts=3, size=10, new=2, suffix=8)(*model, data)
    assert set(found) == {f"gap/{method}{part}" for method in METHODS for part in ("", "/first")}
    rng, cut, bits = np.random.default_rng(0), CutPrompts(size=10, new=2), 0.0
    for document in DOCUMENTS:
        prefix, gap = cut._cut(document, tokenizer, rng)
        suffix = document[len(prefix) + 2 :][:8]
        context = [tokenizer.bos, *ids_of(tokenizer, "PRE", "SUF", suffix, "MID")]
        bits += texts_log_prob(model, tokenizer, context, prefix) - texts_log_prob(model, tokenizer, context, prefix + gap)
    assert found["gap/exact"] == pytest.approx(bits / (math.log(2) * 6), rel=1e-4)


@pytest.mark.parametrize("corruption", [NextTokens(), FillIn()])
def test_gaps_are_asked_of_models_that_see_the_suffix_first_alone(corruption):
    with pytest.raises(UserError, match=r"need a run whose corruption is FillIn\(SuffixFirst\(\)\)\."):
        CutGaps().check(types.SimpleNamespace(corruption=corruption))


def texts_log_prob(model, tokenizer, context, text):
    return float(ExactBytes(*model, tokenizer, [text], 0, [context]).log_probs()[0])


def test_of_bytes_all_ways_are_one():
    model = random_model(256, transformer(1, 32, 64, 2), seed=1)
    data = data_of(ByteTokenizer())
    bits = ExactBits(documents=3, size=20)(*model, data)
    assert bits["possible_bpb"] == pytest.approx(bits["exact_bpb"], rel=1e-5)
    cut = CutPrompts(prompts=3, size=10, new=2)(*model, data)
    assert max(cut["cut/exact"], cut["cut/plain"]) == pytest.approx(min(cut["cut/exact"], cut["cut/plain"]), rel=1e-4)
