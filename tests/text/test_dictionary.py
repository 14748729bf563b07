"""Dictionaries of toy text."""

import numpy as np
import pytest

from lmlab.data.markov import SwitchingChain
from lmlab.errors import UserError
from lmlab.text.dictionary import Dictionary
from lmlab.text.merges import apply

DOCUMENTS = [d.data for d in SwitchingChain(2, 20, 3000).documents()]
RECIPES = [
    Dictionary(0), Dictionary(10), Dictionary(20, encoded="greedy"), Dictionary(20, "lzw", "greedy"),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_round_trip_and_size(recipe, tmp_path):
    tokenizer = recipe.train(DOCUMENTS)
    assert tokenizer.vocab_size == recipe.vocab_size
    ids = tokenizer.encode(DOCUMENTS[0])
    assert tokenizer.decode([tokenizer.bos, *ids]) == DOCUMENTS[0]
    assert (tokenizer.byte_spans(ids)[:, 1] - tokenizer.byte_spans(ids)[:, 0] == tokenizer.token_lengths()[ids]).all()
    tokenizer.save(tmp_path / "t.json")
    assert recipe.load(tmp_path / "t.json").fingerprint == tokenizer.fingerprint
    with pytest.raises(UserError, match="The byte 50 is no symbol"):
        tokenizer.encode(b"0102")


def test_encodings_are_what_they_are_called():
    data = DOCUMENTS[1][:300]
    merged = Dictionary(10).train(DOCUMENTS)
    tokens = [bytes([b]) for b in data]
    for merge in merged.merges:
        tokens = apply(merge, tokens)
    assert [merged.token_bytes(i) for i in merged.encode(data)] == tokens
    greedy, start = Dictionary(20, "lzw", "greedy").train(DOCUMENTS), 0
    for i in greedy.encode(data):
        fits = [t for t in greedy.tokens if data.startswith(t, start)]
        assert greedy.token_bytes(i) == max(fits, key=len)
        start += len(max(fits, key=len))


def test_lzw_knows_what_it_has_seen():
    tokenizer = Dictionary(4, "lzw", "greedy").train([b"0010"])
    assert tokenizer.tokens == (b"0", b"1", b"00", b"01")
    tokens = Dictionary(20, "lzw", "greedy").train(DOCUMENTS).tokens
    assert len(set(tokens)) == 20 and all(token[:-1] in tokens for token in tokens[2:])


def test_bad_dictionaries_are_refused():
    with pytest.raises(UserError, match="3 different bytes"):
        Dictionary(10).train([b"012" * 10])
    with pytest.raises(UserError, match="LZW learns no merges"):
        Dictionary(10, "lzw", "merges")
    with pytest.raises(UserError, match="too small for a dictionary of 40"):
        Dictionary(40).train([b"0101"])
