"""Chunk lengths and word edges, counted by hand."""

import numpy as np
import pytest

from lmlab.evaluation.chunks import LONGEST, ChunkStatistics, at_bytes
from lmlab.text.words import Words


def test_counted_by_hand():
    text = b"ab cd  efg"  # words end at 2 and 5; the second space of a run is no new edge, but the byte behind 5 is
    tokens = np.frombuffer(text, np.uint8)[None].astype(np.int32)
    starts = np.zeros((1, 10), bool)
    starts[0, [0, 3, 4, 6, 9]] = True  # 3 and 6 lie behind an edge's space
    statistics = ChunkStatistics()
    statistics.add({"tokens": tokens, "segment_ids": np.ones((1, 10), np.int32)}, [starts])
    values = statistics.values()
    lengths = values["stage0/chunk_lengths"]
    assert len(lengths) == LONGEST and lengths[0] == 0.25 and lengths[1] == 0.25 and lengths[2] == 0.5
    assert values["stage0/at_words"] == pytest.approx(2 / 5)
    assert values["stage0/words_found"] == 1.0


def test_padding_and_further_batches():
    tokens = np.array([[97, 32, 0, 0]], np.int32)
    segments = np.array([[1, 1, 0, 0]], np.int32)
    starts = np.array([[True, False, False, False]])
    statistics = ChunkStatistics()
    for _ in range(2):
        statistics.add({"tokens": tokens, "segment_ids": segments}, [starts, starts])
    values = statistics.values()
    assert values["stage1/words_found"] == 0 and values["stage1/at_words"] == 0
    assert set(values) == {f"stage{s}/{k}" for s in (0, 1) for k in ("chunk_lengths", "at_words", "words_found")}


def test_the_end_of_a_word_is_a_start_at_the_byte_behind_it():
    tokenizer = Words(symbols=2)
    tokens = tokenizer.encode(b"ab cd efg")[None]  # ab_##cd_##efg##
    starts = tokens == 256
    starts[0, 0] = True
    batch = {"tokens": tokens, "segment_ids": np.ones_like(tokens)}
    batch, (moved,) = at_bytes(batch, (starts,), tokenizer.token_lengths())
    assert bytes(batch["tokens"][0, :9].astype(np.uint8)) == b"ab cd efg"
    assert batch["segment_ids"].sum() == 9 and (batch["segment_ids"][0, :9] == 1).all()
    assert np.flatnonzero(moved[0]).tolist() == [0, 3, 6]
