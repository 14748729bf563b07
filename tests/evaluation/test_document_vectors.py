"""Vectors of documents: what the measures say of predictions that are known."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.corpora import Files
from lmlab.data.masked_words import MaskedWords
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.document_vectors import (
    DocumentClasses,
    DocumentVectors,
    _vectors,
    alike_by_chance,
    explained,
    nearest_is_alike,
)
from lmlab.models.language_model import init
from lmlab.models.next_level import next_level
from lmlab.text.bytes import ByteTokenizer
from tests.training import tiny


def test_the_mean_explains_nothing_and_the_vectors_all():
    v = np.random.default_rng(0).normal(size=(50, 8)) + 3
    mean = v.mean(axis=0)
    assert explained(v, np.broadcast_to(mean, v.shape), mean) == 0
    assert explained(v, v, mean) == 1
    assert explained(v, np.zeros_like(v), mean) < 0
    assert 0.7 < explained(v, (v + mean) / 2, mean) < 0.8


def test_pieces_are_found_by_what_they_are_beyond_the_mean():
    rng = np.random.default_rng(0)
    document = np.repeat(np.arange(10), 3)
    own = rng.normal(size=(10, 16))[document] + 0.01 * rng.normal(size=(30, 16)) + 100
    assert nearest_is_alike(own, document) == 100
    assert nearest_is_alike(rng.normal(size=(30, 16)), document) < 40


def test_chance_is_what_a_drawn_other_piece_gives():
    document = np.array([0, 0, 0, 4, 4, 7, 7])
    hits = [a == b for i, a in enumerate(document) for j, b in enumerate(document) if i != j]
    np.testing.assert_allclose(alike_by_chance(document), 100 * np.mean(hits))


def test_a_model_that_predicts_one_vector_has_no_spread(tmp_path):
    model = next_level(ByteTokenizer(), 8, 16, 2, (1, 16), (1, 16))
    params = init(model, jax.random.key(0))
    baked = bake(tiny.corpus(tmp_path), ByteTokenizer(), str(tmp_path / "cache"))
    data = Data(baked, 64, 4, MaskedWords())
    evaluator = DocumentVectors("train", 8, 3)
    found = evaluator(model, params, data)
    assert np.isfinite(list(found.values())).all() and found["spread"] > 0
    assert 0 <= found["same_document"] <= 100 and 0 < found["same_document/chance"] < 20
    fixed = {"params": params["params"] | {"out2": 0 * params["params"]["out2"]}}
    collapsed = evaluator(model, fixed, data)
    assert collapsed["spread"] == 0 and collapsed["explained"] <= 0
    for name in ("same_document", "same_document/mean_pooling", "explained/neighbours"):
        assert collapsed[name] == found[name]
    with pytest.raises(UserError, match="No two train documents"):
        dataclasses.replace(evaluator, chunks=10_000)(model, params, data)


def test_a_kind_is_a_folder_with_enough_documents(tmp_path):
    """By the counts of bytes all are found where each folder has bytes of its own, whatever the model; short documents,
    small folders and what is over `most` are left out."""
    rng = np.random.default_rng(0)
    for folder, letters, count in (("a", b"abcd", 6), ("b", b"wxyz", 4), ("few", b"mnop", 2)):
        (tmp_path / "kinds" / folder).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "kinds" / folder / f"{i}.txt").write_bytes(bytes(rng.choice(list(letters), 80).tolist()))
        (tmp_path / "kinds" / folder / "short.txt").write_bytes(bytes(rng.choice(list(letters), 20).tolist()))
    model = next_level(ByteTokenizer(), 8, 16, 2, (1, 16), (1, 16))
    params = init(model, jax.random.key(0))
    data = Data(bake(tiny.corpus(tmp_path), ByteTokenizer(), str(tmp_path / "cache")), 64, 4, MaskedWords())
    kinds = DocumentClasses(Files(str(tmp_path / "kinds")), chunks=8, fewest=3, most=5)
    run = types.SimpleNamespace(model=model)
    kinds.check(run)
    found = kinds(model, params, data)
    assert found["class/tokens"] == 100
    np.testing.assert_allclose(found["class/chance"], alike_by_chance(np.repeat([0, 1], [5, 4])))
    texts = [text for texts in kinds._folders(64).values() for text in texts[:5]]
    ids, folder = np.stack([np.frombuffer(text[:64], np.uint8) for text in texts]).astype(np.int32), np.repeat([0, 1], [5, 4])
    vectors, states = (x.mean(axis=1) for x in _vectors(model, params, data, ids, np.zeros((9, 8), bool))[:2])
    assert found["class/mean_pooling"] == nearest_is_alike(vectors, folder) > 50
    assert found["class"] == nearest_is_alike(states, folder)
    with pytest.raises(UserError, match="no two of this corpus"):  # of 80 bytes there are ten chunks of eight
        dataclasses.replace(kinds, chunks=11).check(run)
    alone = dataclasses.replace(kinds, fewest=6)
    for ask in (lambda: alone.check(run), lambda: alone(model, params, data)):
        with pytest.raises(UserError, match="no two of this corpus hold 6 long documents"):
            ask()
