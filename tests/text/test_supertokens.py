"""Supertokens: exact on every byte string, merges within random chunks of whole words, over the spaces inside."""

import collections

import pytest

import lmlab.text.bpe as bpe
from lmlab.errors import UserError
from lmlab.text.bpe import train_bpe
from lmlab.text.merges import PRE_TOKEN
from lmlab.text.supertokens import Supertokens, chunks

TEXT = ("the cat sat on the mat, and the dog sat on the log; it is naïve of the dog. "
        "Whatever you write, someone reads it slowly, or skips over it quickly!\n" * 40).encode()
RECIPE = Supertokens(300)


@pytest.fixture(scope="module")
def tokenizer():
    return RECIPE.train([TEXT])


@pytest.mark.parametrize("data", [TEXT, b"", b"x", bytes(range(256)), b"\xff on the mat\xfe", "on the é".encode()[:-1]])
def test_every_byte_string_round_trips(tokenizer, data):
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data and (ids < tokenizer.bos).all()


def test_chunks_are_of_so_many_words_by_chance():
    words = PRE_TOKEN.findall(TEXT.decode())
    found, at = list(chunks([TEXT, TEXT], (0.5, 0.0, 0.5))), 0
    assert "".join(found) == 2 * TEXT.decode()
    counts = collections.Counter()
    for chunk in found:
        size = 0
        while "".join((words * 2)[at : at + size]) != chunk:
            size += 1
        counts[size] += 1
        at += size
    whole = counts[1] + counts[3]
    assert counts.total() - whole <= 2  # the end of a document may cut one short
    assert 0.4 < counts[1] / whole < 0.6
    assert found == list(chunks([TEXT, TEXT], (1, 0, 1))) != list(chunks([TEXT, TEXT], (1, 0, 1), seed=1))


def test_chunks_of_one_word_teach_what_bpe_learns():
    alone = Supertokens(300, words=(1.0,)).train([TEXT])
    assert alone.merges == train_bpe([TEXT], 300).merges
    assert alone.fingerprint != train_bpe([TEXT], 300).fingerprint  # the same tokens, and other cuts


def test_a_long_text_is_not_cut_where_tokens_cross(tokenizer, monkeypatch):
    whole = tokenizer.encode(TEXT)
    monkeypatch.setattr(bpe, "_PIECE", 7)
    assert tokenizer.encode(TEXT).tolist() == whole.tolist()


def test_supertokens_go_over_spaces_and_compress_more(tokenizer):
    assert any(b" " in tokenizer.token_bytes(i).strip() for i in range(tokenizer.vocab_size))
    assert len(tokenizer.encode(TEXT)) < 0.95 * len(train_bpe([TEXT], 300).encode(TEXT))


def test_only_the_first_bytes_are_learned_from():
    assert Supertokens(280, max_bytes=600).train([TEXT[:600], b"zzzz" * 500]) == Supertokens(280).train([TEXT[:600]])


def test_it_is_saved_and_read(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    assert RECIPE.load(tmp_path / "t.json") == tokenizer
    with pytest.raises(UserError, match="has 300 ids, not the 301"):
        Supertokens(301).load(tmp_path / "t.json")


def test_bad_input():
    with pytest.raises(UserError, match="too small for 50000 supertokens: it yields only"):
        Supertokens(50_000).train([TEXT])
    with pytest.raises(UserError, match="at least 258"):
        Supertokens(257)
    for words in ((), (0.0, 0.0), (1.0, -0.5)):
        with pytest.raises(UserError, match="not negative"):
            Supertokens(300, words=words)
