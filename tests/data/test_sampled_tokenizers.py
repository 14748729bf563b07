"""Rows under drawn tokenizers: every byte once or counted, pieces that write their token, nothing made from test."""

import dataclasses
import types

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.corruptions import EVALUATION
from lmlab.data.sampled_tokenizers import SampledTokenizers
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import Data
from lmlab.text.bpe import train_bpe
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.sampled import Sampler

WORDS = b"the reader reads what the writer writes, and the weather wrote to another brother %d "
TRAIN = [WORDS % i * 5 for i in range(9)]
TEST = [b"zizzy jazz, quizzical jinx: %d fjords vex quick wizards \xe4\xb8 " % i * (3 + i) for i in range(5)]
OLD = train_bpe(TRAIN + TEST, 290)
READING = SampledTokenizers(Sampler(272), rows=4, pieces=5, texts=6, old=16)
STREAM, HELD_OUT = stream_of(TRAIN, OLD), stream_of(TEST, OLD)


@pytest.mark.parametrize("pieces", [2, 3, 4])
def test_the_pieces_of_an_old_token_write_it(pieces):
    windows = dataclasses.replace(READING, pieces=pieces).windows(STREAM, 24, OLD)
    counts = []
    for step in range(30):
        drawn = windows.drawn(0, step)
        for token, of in zip(drawn.old_tokens.tolist(), drawn.old_pieces, strict=True):
            assert OLD.decode(of[of >= 0]) == OLD.token_bytes(token)
        counts.append((drawn.old_pieces >= 0).sum(axis=1))
    whole, split = np.stack(counts)[:, ::2], np.stack(counts)[:, 1::2]
    assert (whole == 1).all() and split.min() == 2 and split.max() == pieces


@pytest.mark.parametrize("room, fits", [(1.0, False), (4.0, True)])
@pytest.mark.parametrize("length", [24, 25, 60])
def test_every_byte_is_asked_for_once_or_counted_as_left_out(room, fits, length):
    windows = dataclasses.replace(READING, room=room).windows(HELD_OUT, length, OLD, STREAM)
    batch = windows.batch(np.arange(len(windows)))
    asked, dropped = int(batch["target_bytes"].sum()), int(batch["dropped_bytes"].sum())
    assert asked + dropped == sum(map(len, TEST)) and (dropped == 0) == fits
    if fits:
        targets = batch["targets"][batch["weights"] > 0]
        assert windows.drawn(EVALUATION, 0).tokenizer.decode(targets) == b"".join(TEST)
        assert np.count_nonzero(targets == windows.drawn(EVALUATION, 0).tokenizer.eos) == len(TEST)


def test_an_evaluations_tokenizer_is_made_from_the_train_split():
    splits = {"train": STREAM, "test": HELD_OUT}
    data = Data(types.SimpleNamespace(split=splits.get, tokenizer=OLD), 24, 4, READING)
    train, test = (data.windows(split).drawn(EVALUATION, 0) for split in ("train", "test"))
    assert test.tokenizer.fingerprint == train.tokenizer.fingerprint
    tokens = [test.tokenizer.token_bytes(i) for i in range(test.tokenizer.vocab_size)]
    assert not any(len(token) > 1 and token in TEST[0] and token not in b"".join(TRAIN) for token in tokens)


def test_a_vocabulary_of_bytes_has_nothing_to_learn_from():
    with pytest.raises(UserError, match="^Splitting tokens needs a subword vocabulary"):
        READING.windows(stream_of(TRAIN, ByteTokenizer()), 24, ByteTokenizer())
