"""Words joined to one position each: the same text, each of its bytes covered once, and nothing but words joined."""

import re
import types

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows, evaluation_batches
from lmlab.data.corruptions import NextTokens
from lmlab.data.spelled_words import SpelledWords, spelled_vocabulary
from lmlab.errors import UserError
from lmlab.evaluation import bits_per_byte
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data
from lmlab.runner import measured_flops_per_byte
from lmlab.text.bpe import train_bpe
from lmlab.text.multi_word import LETTER

TEXTS = [
    b"the reader reads (readability) of unread_books, naively; notwithstanding x " * 4,
    "é naïveté  reader's\n".encode() * 9,
]
TOKENIZER = train_bpe(TEXTS, 290)
STREAM = stream_of(TEXTS, TOKENIZER)
WORD, LENGTH = TOKENIZER.vocab_size, 24


def windows(**changes):
    return SpelledWords(**{"longest": 14, "room": 0.5} | changes).windows(STREAM, LENGTH, TOKENIZER)


def texts_of(row, key):
    """Bytes of each position that a row reads ("tokens") or is asked for ("targets")."""
    at = row["input_segment_ids"] - (key == "targets")
    there = row["input_segment_ids"] > 0
    words = {int(p): bytes(int(c) for c in w if c >= 0) for p, w in zip(at[there], row["inputs"][there])}
    return [words[i] if t == WORD else TOKENIZER.token_bytes(int(t)) for i, t in enumerate(row[key])]


def rows(windows):
    for batch in evaluation_batches(windows, 3):
        yield from ({name: array[i] for name, array in batch.items()} for i in range(3))


def test_targets_are_the_text():
    read, joined = b"", 0
    for row in rows(windows()):
        asked = row["weights"] > 0
        pieces = [text for text, w in zip(texts_of(row, "targets"), asked) if w]
        assert [len(p) for p in pieces] == row["target_bytes"][asked].tolist()
        read += b"".join(pieces)
        joined += int(np.sum(row["targets"] == WORD))
    assert read == b"".join(TEXTS) and joined >= 20


def test_a_position_reads_what_the_one_before_was_asked_for():
    for row in rows(windows()):
        tokens, targets = texts_of(row, "tokens"), texts_of(row, "targets")
        for i in np.flatnonzero(row["segment_ids"][1:]):
            if row["weights"][i] and row["tokens"][i + 1] != TOKENIZER.eos:
                assert tokens[i + 1] == targets[i] and row["segment_ids"][i + 1] == row["segment_ids"][i]
        used = int(np.count_nonzero(row["segment_ids"]))
        assert (row["segment_ids"][used:] == 0).all() and (row["weights"][used:] == 0).all()
        assert np.count_nonzero(row["tokens"] == WORD) == np.count_nonzero(row["input_segment_ids"])


def test_what_is_joined_is_a_whole_word_of_several_tokens():
    whole = re.compile(rb" ?(?<!" + LETTER + rb")" + LETTER + rb"+(?!" + LETTER + rb")")
    words = {match[0] for text in TEXTS for match in whole.finditer(text)}
    found = {bytes(int(c) for c in w if c >= 0) for row in rows(windows()) for w in row["inputs"]} - {b""}
    assert found <= words and max(map(len, found)) <= 14
    assert all(len(TOKENIZER.encode(word)) > 1 for word in found) and b" naively" in found
    assert b" notwithstanding" not in found  # too long


def test_without_room_or_chance_words_stay_as_tokens():
    plain = Windows(STREAM, LENGTH, TOKENIZER)
    none = windows(chance=1e-9).batch([0, 1], [(0, 0), (0, 1)])
    for name, array in plain.batch([0, 1]).items():
        np.testing.assert_array_equal(none[name], array)
    full, few = windows().batch([0, 1, 2]), windows(room=0.05).batch([0, 1, 2])
    assert few["inputs"].shape[1] == 1 and (np.count_nonzero(few["input_segment_ids"], axis=1) == 1).all()
    assert few["target_bytes"].sum() == full["target_bytes"].sum()
    half = windows(chance=0.5).batch([0, 1, 2], [(0, i) for i in range(3)])["input_segment_ids"]
    assert 0 < np.count_nonzero(half) < np.count_nonzero(full["input_segment_ids"])


def test_flops_per_byte_are_those_of_whole_rows():
    class Reads:
        """A model of 1000 FLOPs a position."""

        flops = staticmethod(lambda length, words: {"all": 1000.0})

    baked = types.SimpleNamespace(tokenizer=TOKENIZER, split=lambda split: STREAM)
    metrics = {}
    for corruption in (SpelledWords(14, 0.5), NextTokens()):
        rows = corruption.windows(STREAM, LENGTH, TOKENIZER)
        every = [rows.batch([i]) for i in range(len(rows))]
        scores = lambda batch: types.SimpleNamespace(nats_BL=0.0 * batch["weights"], starts=())  # noqa: E731
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bits_per_byte, "score", lambda model, params, batch: scores(batch))
            metrics[type(corruption)] = BitsPerByte()(None, None, Data(baked, LENGTH, 3, corruption))
    joined, plain = metrics[SpelledWords], metrics[NextTokens]
    assert joined["bytes_per_token"] > 1.25 * plain["bytes_per_token"]
    run = types.SimpleNamespace(flops=lambda ratios: SpelledWords(14, 0.5).flops(Reads, LENGTH, ratios))
    found = measured_flops_per_byte(run, joined)
    assert found == pytest.approx(1000 / plain["bytes_per_token"])  # as many positions as without words
    full = [int(row["target_bytes"].sum()) for row in every[:-1]]  # but for those that ends of documents take
    assert found == pytest.approx(1000 * LENGTH / np.mean(full), rel=0.05)


def test_shapes_are_as_promised():
    corruption = SpelledWords(14, 0.5)
    assert {k: v.shape[1:] for k, v in windows().batch([0]).items()} == corruption.shapes(LENGTH)
    with pytest.raises(UserError, match="two bytes or more"):
        SpelledWords(longest=1)


def test_the_vocabulary_is_split_in_two():
    characters, known, held = spelled_vocabulary(TOKENIZER, 6, 0.5)
    lengths = TOKENIZER.token_lengths()
    np.testing.assert_array_equal(known | held, (lengths > 0) & (lengths <= 6))
    assert not (known & held).any() and 5 < held.sum() and (lengths[held] > 1).all()
    for i in np.flatnonzero(known | held):
        assert bytes(c for c in characters[i].tolist() if c >= 0) == TOKENIZER.token_bytes(int(i))
