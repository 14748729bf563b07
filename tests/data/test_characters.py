"""The characters of a batch are the bytes of its tokens, and of hidden tokens nothing but that they are hidden."""

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.characters import EMPTY, HIDDEN, Characters
from lmlab.data.noisy_words import NoisyWords
from lmlab.errors import UserError
from lmlab.text.bpe import BPE

DOCUMENTS = [b"one two\n    three  four(five, six) \xfe\xff seven\r\n" * 20, "sechs été".encode() * 9]
TOKENIZER = BPE(290).train(DOCUMENTS)


def batch_of(room, indices=(0, 1, -1), draws=((0, 0), (0, 1), (0, 2))):
    corruption = Characters(NoisyWords(0.15, 0.3), room)
    batch = corruption.windows(stream_of(DOCUMENTS, TOKENIZER), 50, TOKENIZER).batch(indices, draws)
    assert {name: values.shape[1:] for name, values in batch.items()} == corruption.shapes(50)
    return batch


@pytest.mark.parametrize("room", [8.0, 1.0])
def test_characters_are_the_bytes_of_the_tokens_that_are_read(room):
    batch = batch_of(room)
    assert (batch["tokens"] == TOKENIZER.vocab_size).any()
    for tokens, segments, characters, owner in zip(
        *(batch[n] for n in ("tokens", "segment_ids", "inputs", "input_segment_ids")), strict=True
    ):
        expected = []
        for i, token in enumerate(tokens):
            if segments[i]:
                hidden = token == TOKENIZER.vocab_size
                of = [HIDDEN] if hidden else list(TOKENIZER.token_bytes(int(token))) or [EMPTY]
                expected += [(c, i + 1) for c in of]
        expected = (expected + [(0, 0)] * 1000)[: len(characters)]
        np.testing.assert_array_equal(np.stack([characters, owner], 1), expected)


def test_no_room_for_a_token_is_an_error():
    with pytest.raises(UserError, match="at least one character per token"):
        Characters(room=0.5)
