"""Other segmentations: the same bytes, all of the vocabulary, and decided by the generator alone."""

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.text.bpe import BPE, BPETokenizer
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.segmentations import Merges, Splits

TEXT = "The cat sat on the mat, naïve café 世界 🙂 of the unrelated cats' mattresses.\n\n  x = 12345 ".encode() + b"\xfe\xff raw"
DOCUMENTS = [TEXT * 6, b"relate, related, unrelated, relating " * 9]


@pytest.fixture(scope="module")
def tokenizer():
    return BPE(300).train(DOCUMENTS)


def written(tokenizer, ids):
    return tokenizer.decode(ids)


def test_every_split_of_every_token_is_known_and_is_its_bytes(tokenizer):
    splits = Splits(tokenizer)
    vocabulary = {tokenizer.token_bytes(t) for t in range(tokenizer.vocab_size)}
    for token in range(tokenizer.vocab_size):
        data = tokenizer.token_bytes(token)
        found = {(tokenizer.token_bytes(a), tokenizer.token_bytes(b)) for a, b in splits.of(token)}
        assert all(a + b == data and a and b for a, b in found)
        assert found == {(data[:i], data[i:]) for i in range(1, len(data)) if {data[:i], data[i:]} <= vocabulary}
        assert len(data) < 2 or found  # the last merge is one


def test_a_tokenizer_read_from_disk_splits_as_before(tokenizer, tmp_path):
    """The released code does not: its ids are strings once it has read them."""
    tokenizer.save(tmp_path / "t.json")
    again = Splits(BPETokenizer.load(tmp_path / "t.json"))
    assert [again.of(t) for t in range(tokenizer.vocab_size)] == [Splits(tokenizer).of(t) for t in range(tokenizer.vocab_size)]
    ids = tokenizer.encode(TEXT)
    assert len(again.split(ids, 20, np.random.default_rng(0))[0]) > len(ids) + 5


def test_splits_keep_the_bytes_and_say_whose_they_are(tokenizer):
    splits, ids = Splits(tokenizer), tokenizer.encode(TEXT)
    pieces, origins = splits.split(ids, 40, np.random.default_rng(1))
    assert len(ids) < len(pieces) <= len(ids) + 40
    for i, token in enumerate(ids):
        assert written(tokenizer, pieces[origins == i]) == tokenizer.token_bytes(int(token))
    assert (np.diff(origins) >= 0).all()
    again, _ = splits.split(ids, 40, np.random.default_rng(1))
    np.testing.assert_array_equal(pieces, again)


def test_bytes_have_no_splits():
    with pytest.raises(UserError, match="Splitting tokens needs a subword vocabulary"):
        Splits(ByteTokenizer())
    with pytest.raises(UserError, match="BPE-dropout needs a BPE tokenizer"):
        Merges(ByteTokenizer())


def test_without_dropout_merges_are_the_library_s(tokenizer):
    merges = Merges(tokenizer)
    for data in [TEXT, b"", b" ", b"\xff", *DOCUMENTS]:
        ids, word = merges.segment(data, tokenizer.word_ends(data), 0.0, np.random.default_rng(0))
        np.testing.assert_array_equal(ids, tokenizer.encode(data))
        assert (np.diff(word) >= 0).all()
    ids = tokenizer.encode(TEXT)
    pieces, origins = merges.drop(ids, len(ids), 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(pieces, ids)
    np.testing.assert_array_equal(origins, np.arange(len(ids)))


@pytest.mark.parametrize("rate, least", [(0.1, 1.02), (0.5, 1.3), (1.0, 1.5)])
def test_dropout_keeps_the_bytes_and_the_words(tokenizer, rate, least):
    merges, ids = Merges(tokenizer), tokenizer.encode(TEXT * 3)
    pieces, origins = merges.drop(ids, 10**6, rate, np.random.default_rng(0))
    assert written(tokenizer, pieces) == TEXT * 3 and len(pieces) > least * len(ids)
    ends, spans = tokenizer.byte_spans(pieces)[:, 1], tokenizer.byte_spans(ids)
    assert ((spans[origins, 0] < ends) & (ends <= spans[origins, 1])).all()
    assert set(tokenizer.word_ends(TEXT * 3)) <= set(ends)


def test_dropout_writes_what_splits_cannot(tokenizer):
    """A token may begin inside of one of the tokenizer's own and end in the next."""
    merges, ids = Merges(tokenizer), tokenizer.encode(TEXT * 30)
    cuts = set(tokenizer.byte_spans(ids)[:, 1])
    pieces, _ = merges.drop(ids, 10**6, 0.3, np.random.default_rng(0))
    assert cuts - set(tokenizer.byte_spans(pieces)[:, 1])


def test_dropout_stays_within_its_room(tokenizer):
    merges, ids = Merges(tokenizer), tokenizer.encode(TEXT * 3)
    for room in (len(ids), len(ids) + 1, len(ids) + 10):
        pieces, _ = merges.drop(ids, room, 0.5, np.random.default_rng(0))
        assert len(pieces) <= room and written(tokenizer, pieces) == TEXT * 3


def test_everything_dropped_is_bytes(tokenizer):
    ids, _ = Merges(tokenizer).segment(TEXT, tokenizer.word_ends(TEXT), 1.0, np.random.default_rng(0))
    assert len(ids) == len(TEXT)
