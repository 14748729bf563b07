import json

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows, evaluation_batches
from lmlab.errors import UserError
from lmlab.text.words import SpaceWords, UnicodeWords, Unsplit, Words
from tests.paths import SHARED

TEXTS = [
    b"",
    b"Hello, world!\n\n  naive camelCase",
    bytes(range(256)) * 2,
    "naïve 漢字 🙂 👩‍👩‍👧\u0301 x\u00a0y".encode(),
    b"\xff\xfe\xfd \x80\x80\x80\x80\x80\x80 \xf0\x9f",
    b" \n\t ",
]
TOKENIZERS = [
    Words(splitter, max_bytes, symbols=symbols)
    for splitter in (SpaceWords(), UnicodeWords(), Unsplit())
    for max_bytes, symbols in ((63, 1), (3, 2))
]


def words(tokenizer, data):
    ends = [0, *tokenizer.ends(data)]
    return [data[a:b] for a, b in zip(ends, ends[1:])]


@pytest.mark.parametrize("max_bytes", [8, 64])
def test_unicode_words_are_those_of_the_released_splitter(max_bytes):
    path = SHARED / "fixtures" / "hat_splitter.json"
    if not path.exists():
        pytest.skip("needs ../shared/fixtures/hat_splitter.json, which is not on this machine")
    for case in json.loads(path.read_text()):
        expected = [bytes(word) for word in case[f"bytes_limit{max_bytes}"]]
        assert words(Words(UnicodeWords(), max_bytes), case["text"].encode()) == expected
        assert words(Words(UnicodeWords(), 10_000), case["text"].encode()) == [w.encode() for w in case["split"]]


def test_space_joins_the_word_before_it():
    assert words(Words(), b" a bc\n\n d") == [b" ", b"a ", b"bc\n\n ", b"d"]


@pytest.mark.parametrize(
    "expected", [["🇩", "a", " 🇩🇪", "🇫", " b"], ["\n", "\u0301", "a"], ["\u200d", "a"]], ids=len
)
def test_unicode_words_mend_what_the_library_joins(expected):
    """Where UAX 29 breaks: behind a regional indicator without a partner, and behind a combining character that has
    nothing to combine with."""
    assert words(Words(UnicodeWords()), "".join(expected).encode()) == [w.encode() for w in expected]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: t.fingerprint)
@pytest.mark.parametrize("text", TEXTS, ids=lambda t: str(len(t)))
def test_round_trips_every_byte_and_counts_it_once(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == text
    lengths = tokenizer.token_lengths()
    assert lengths[ids].sum() == len(text) and ids.max(initial=0) < tokenizer.vocab_size == len(lengths)
    spans = tokenizer.byte_spans(ids)
    assert all(tokenizer.token_bytes(int(i)) == text[a:b] for i, (a, b) in zip(ids, spans, strict=True))
    pieces = np.split(ids, np.flatnonzero(ids == tokenizer.vocab_size - 1) + 1)
    assert len(pieces[-1]) == 0  # every byte is in a word, and every word has all its symbols
    for piece in pieces[:-1]:
        assert 1 <= len(piece) - tokenizer.symbols <= tokenizer.max_bytes
        assert (piece[-tokenizer.symbols :] == 256 + np.arange(tokenizer.symbols)).all()


def test_a_character_is_cut_only_where_it_does_not_fit():
    assert words(Words(Unsplit(), 4), "aé漢🙂".encode()) == ["aé".encode(), "漢".encode(), "🙂".encode()]
    assert b"".join(words(Words(Unsplit(), 2), "🙂🙂".encode())) == "🙂🙂".encode()


def test_nominal_bytes_per_token_count_the_symbols():
    text = b"four five six "
    tokenizer = Words(bytes_per_word=14 / 3)
    assert len(text) / len(tokenizer.encode(text)) == pytest.approx(tokenizer.bytes_per_token)


def test_batches_cover_the_source_bytes_and_score_every_symbol():
    documents, tokenizer = [t for t in TEXTS if t], Words(UnicodeWords(), 5)
    windows = Windows(stream_of(documents, tokenizer), 16, tokenizer)
    batches = list(evaluation_batches(windows, 2))
    total = lambda key: sum(float(b[key].sum()) for b in batches)  # noqa: E731
    assert total("target_bytes") == sum(map(len, documents))
    symbols = sum(len(tokenizer.ends(d)) for d in documents)
    assert total("weights") == sum(map(len, documents)) + symbols + len(documents)  # and the end of each document


def test_a_limit_of_nothing_is_an_error():
    with pytest.raises(UserError, match="at least 1"):
        Words(max_bytes=0)
