"""Tokens of no vocabulary: nothing changes where nothing is merged, and their rows are those of their pieces."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.dynamic import DynamicTokens, Extended, excerpts
from lmlab.evaluation.large_vocabulary import LargeVocabulary
from lmlab.models.build import transformer
from lmlab.models.hypernetwork import Hypernetwork, Retokenized
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.two_way import TwoWay
from lmlab.text.bpe import BPE
from lmlab.text.dynamic import words_of
from tests.parameters import moved
from tests.training import tiny

BASE = LanguageModel(280, transformer(1, 16, 32, n_heads=2))
PARAMS = moved(init(BASE, jax.random.key(0)))
DYNAMIC = DynamicTokens((0, 50, 100), batch=8, size=100, per_document=2, pieces=12)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dynamic")
    return Data(bake(tiny.corpus(folder), BPE(280), str(folder / "cache")), 32, 4)


@pytest.fixture(scope="module")
def measured(data):
    return DYNAMIC(BASE, PARAMS, data)


def plain_bpb(data, per_document, pieces, halves):
    """Bits per byte of the excerpts, or of their second halves, by the plain model."""
    tokenizer, nats, size = data.baked.tokenizer, 0.0, 0
    texts, _ = excerpts(data.baked, "test", 100, per_document, pieces, least=per_document)
    sequences = [[tokenizer.bos, *tokenizer.encode(text)] for text in texts]
    tokens = np.zeros((len(texts), max(map(len, sequences))), np.int32)
    for row, ids in zip(tokens, sequences, strict=True):
        row[: len(ids)] = ids
    logp = np.asarray(jax.nn.log_softmax(BASE.apply(PARAMS, tokens).logits))
    for row, text in enumerate(texts):
        words = words_of(tokenizer, text)
        first = sum(map(len, words[: len(words) // 2])) if halves else 0
        for at in range(first, len(sequences[row]) - 1):
            nats -= logp[row, at, tokens[row, at + 1]]
            size += len(tokenizer.token_bytes(int(tokens[row, at + 1])))
    return nats / math.log(2) / size


def test_where_nothing_is_merged_the_second_half_costs_what_it_costs(data, measured):
    np.testing.assert_allclose(measured["prefix/0"], plain_bpb(data, 2, 12, True), rtol=1e-4)


def test_more_is_merged_and_less_is_left(measured):
    assert measured["shorter/0"] == measured["merges/0"] == 0
    assert 0 < measured["shorter/50"] < measured["shorter/100"] < 100
    assert 0 < measured["merges/50"] < measured["merges/100"]
    assert "truncated/0" not in measured and measured["truncated/100"] == 0
    assert measured["prefix/100"] != measured["prefix/0"] and 0 <= measured["match/100"] <= 100


def test_a_fresh_hypernetwork_reads_as_means_do_and_another_does_not(data, measured):
    model = Retokenized(280, BASE, Hypernetwork(TwoWay("T1", 16, 32, n_heads=2, rotary_dim=4), 16))
    fresh = init(model, jax.random.key(1)) | {"frozen": {"model": PARAMS["params"]}}
    few = dataclasses.replace(DYNAMIC, shares=(0, 100))
    for name, value in few(model, fresh, data).items():
        np.testing.assert_allclose(value, measured[name], rtol=1e-4)
    other = few(model, {**moved(fresh, 0.5), "frozen": fresh["frozen"]}, data)
    np.testing.assert_allclose(other["prefix/0"], measured["prefix/0"], rtol=1e-4)
    assert abs(other["prefix/100"] - measured["prefix/100"]) > 1e-4


def test_further_tokens_get_the_mean_of_their_pieces(data):
    reader = Extended(BASE, PARAMS, data.baked.tokenizer)
    ids, further = reader.encode([[b"t", b"readswrites", b"t"], [b"readswrites", b"xyz"]])
    assert ids == [[ids[0][0], 280, ids[0][0]], [280, 281]] and further == [b"readswrites", b"xyz"]
    model, params = reader.with_rows(further)
    pieces = data.baked.tokenizer.encode(b"readswrites")
    table = np.asarray(PARAMS["params"]["embedding"])
    np.testing.assert_allclose(params["params"]["embedding"][280], table[pieces].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(params["params"]["embedding"][:280], table)
    assert model.vocab_size == len(params["params"]["embedding"]) == params["params"]["head"].shape[1]
    long = b"readswrites" * 9  # the mean leaves no piece out, however many there are
    pieces = data.baked.tokenizer.encode(long)
    assert len(pieces) > 16 and reader.truncated([long]) == 0
    np.testing.assert_allclose(reader.rows([long])[0][0], table[pieces].mean(axis=0), atol=1e-6)
    with pytest.raises(UserError, match="plain language models"):
        Extended(TwoWay("T1", 16), PARAMS, data.baked.tokenizer)


def test_a_hypernetwork_tells_what_it_reads_in_part(data):
    model = Retokenized(280, BASE, Hypernetwork(TwoWay("T1", 16, 32, n_heads=2, rotary_dim=4), 2))
    params = init(model, jax.random.key(1)) | {"frozen": {"model": PARAMS["params"]}}
    tokens = [b"readswrites", b"re", b"starts ends"]
    expected = sum(len(data.baked.tokenizer.encode(token)) > 2 for token in tokens)
    assert 0 < expected == Extended(model, params, data.baked.tokenizer).truncated(tokens)
    asked = dataclasses.replace(DYNAMIC, shares=(100,), pieces=4, batch=4)
    assert 0 < asked(model, params, data)["truncated/100"] < 100


def test_only_documents_whose_pieces_can_find_one_another_are_read(data):
    for most in (5, 6, 7):
        texts, document = excerpts(data.baked, "test", 120, 3, most, least=2)
        assert len(texts) == len(document) <= most and np.unique(document, return_counts=True)[1].min() >= 2
    short = [number for number, text in enumerate(data.baked.documents("test")) if len(text) < 2 * 220]
    _, one = excerpts(data.baked, "test", 220, 3, 100)
    _, two = excerpts(data.baked, "test", 220, 3, 100, least=2)
    assert set(short) & set(one) and set(two) == set(one) - set(short)
    with pytest.raises(UserError, match="^No two test documents have two pieces of 9999 bytes to find one another.$"):
        dataclasses.replace(DYNAMIC, size=9999)(BASE, PARAMS, data)
    with pytest.raises(UserError, match="two or more"):
        dataclasses.replace(DYNAMIC, per_document=1)


def test_a_vocabulary_is_as_large_as_asked_for_and_all_lists_find_all(data):
    asked = LargeVocabulary(300, lists=8, probes=16, k=300, size=100, pieces=4, batch=2)
    found = asked(BASE, PARAMS, data)
    assert found["large_ids"] <= 300 and found["large_bytes_per_token"] > found["own_bytes_per_token"]
    for name in ("recall_1", "recall_10", "mass", "compared"):
        np.testing.assert_allclose(found[name], 100, rtol=1e-4)
    assert found["truncated"] == 0
    fewer = dataclasses.replace(asked, probes=2)(BASE, PARAMS, data)
    assert fewer["compared"] < 80 and fewer["mass"] < 100 and fewer["large_bpb"] == found["large_bpb"]


def test_a_vocabulary_of_its_own_ids_is_the_model(data):
    found = LargeVocabulary(280, lists=4, size=100, pieces=4, batch=4)(BASE, PARAMS, data)
    assert found["large_ids"] == 280 and found["large_bytes_per_token"] == found["own_bytes_per_token"]
    np.testing.assert_allclose(found["large_bpb"], plain_bpb(data, 1, 4, False), rtol=1e-4)
