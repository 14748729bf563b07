"""What tokens are: every one of one kind."""

import pytest

from lmlab.text.bpe import train_bpe
from lmlab.text.superwords import train_superwords
from lmlab.text.unigram import Unigram
from lmlab.text.vocabulary import KINDS, describe, kind, unreachable

TEXTS = ["the cat and the hat of the cat and the rat 12 123\n", "кот и кит и тот же кот\n", "été à 漢字 漢語 12\n"]
DOCUMENTS = [text.encode() * 30 for text in TEXTS]


@pytest.mark.parametrize(
    "token, expected",
    [
        (b" the", "letters"), ("кот".encode(), "letters"), ("क्\u200d"[:2].encode(), "letters"), (b" 12", "numbers"),
        (b"...", "punctuation"), (b"+", "punctuation"), (b"\n ", "white space"), (b"\x00", "control"), (b"x1", "mixed"),
        ("漢".encode()[:2], "fragment"), (b"\xff", "fragment"), (b"", "special"),
    ],
)
def test_kinds(token, expected):
    assert kind(token) == expected


def test_kinds_partition_every_vocabulary():
    tokenizer = train_bpe(DOCUMENTS, 300)
    found = describe([tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)])
    assert sum(found[f"kind/{name}"] for name in KINDS) == pytest.approx(100)
    assert sum(v for k, v in found.items() if k.startswith("script/")) == pytest.approx(100)
    assert found["kind/special"] == pytest.approx(100 * 2 / 300)
    # 128 of the bytes are no characters of their own; pieces of merged characters come to them.
    assert found["kind/fragment"] >= 100 * 128 / 300
    assert {"script/latin", "script/cyrillic"} <= set(found)


def test_a_bpe_writes_every_token_that_it_has_made():
    """Of tokens of whole characters; a token whose first merges are taken by another pair is not reached."""
    tokenizer = train_bpe(DOCUMENTS, 300)
    missed = set(unreachable(tokenizer).tolist())
    for i in range(tokenizer.vocab_size - 2):
        if kind(tokenizer.token_bytes(i)) != "fragment":
            assert (tokenizer.encode(tokenizer.token_bytes(i)).tolist() != [i]) == (i in missed)
    assert missed <= set(range(256, 300))


@pytest.mark.parametrize("train", [Unigram(330).train, lambda d: train_superwords(d, 330, 290)])
def test_every_byte_comes_back(train):
    tokenizer = train(DOCUMENTS)
    text = bytes(range(256)) + b" the cat and the rat " + "кот".encode()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size <= 330 and tokenizer.token_bytes(tokenizer.eos) == b""


def test_superwords_cross_spaces_and_save_tokens():
    tokenizer = train_superwords(DOCUMENTS, 330, 290)
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    assert any(b" " in token.strip() for token in tokens)
    assert len(tokenizer.encode(DOCUMENTS[0])) < len(train_bpe(DOCUMENTS, 300).encode(DOCUMENTS[0]))


def test_a_truncated_bpe_is_the_smaller_one():
    large, small = train_bpe(DOCUMENTS, 300), train_bpe(DOCUMENTS, 280)
    cut = large.truncated(280)
    assert cut.vocab_size == 280 and cut.fingerprint == small.fingerprint
    assert all((cut.encode(d) == small.encode(d)).all() for d in DOCUMENTS)
