"""Masked words: whole words, nothing else, and the same again for the same draw."""

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.batches import TrainBatches
from lmlab.data.masked_words import MaskedSubwords, MaskedWords
from lmlab.errors import UserError
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.words import Words, WordsOfSubwords

DOCUMENTS = [b"one two\n three  four \xfe\xff five " * 20, "sechs sieben été".encode() * 9, b"x"]
TOKENIZERS = [ByteTokenizer(), BPE(270), Words(), Words(max_bytes=4, symbols=2)]


def windows_of(recipe, length=50, share=0.3):
    tokenizer = recipe.train(DOCUMENTS)
    corruption = MaskedSubwords(share) if isinstance(recipe, WordsOfSubwords) else MaskedWords(share)
    return corruption.windows(stream_of(DOCUMENTS, tokenizer), length, tokenizer), tokenizer


@pytest.mark.parametrize("recipe", TOKENIZERS, ids=["bytes", "bpe", "words", "pieces"])
def test_whole_words_are_hidden_and_nothing_else(recipe):
    windows, tokenizer = windows_of(recipe)
    batch = windows.batch(np.arange(len(windows)))
    hidden = batch["weights"] > 0
    assert 0.1 < hidden.sum() / (batch["segment_ids"] > 0).sum() < 0.5
    assert (batch["tokens"] == np.where(hidden, tokenizer.vocab_size, batch["targets"])).all()
    lengths = np.array([len(tokenizer.token_bytes(i).strip()) for i in range(tokenizer.vocab_size)])
    assert (batch["target_bytes"] == np.where(hidden, lengths[batch["targets"]], 0)).all()
    stream = windows.stream.tokens
    read = (batch["segment_ids"] > 0).reshape(-1)[: len(stream)]
    assert (batch["targets"].reshape(-1)[: len(stream)][read] == stream[read]).all()
    pieces = [tokenizer.token_bytes(int(t)) for t in stream]
    marks = set(windows.stream.starts) | {e - 1 for e in [*windows.stream.starts[1:], len(stream)]}
    flat, row = hidden.reshape(-1)[: len(stream)], np.arange(len(stream)) // 50
    assert not flat[list(marks)].any()
    for i, piece in enumerate(pieces):
        assert not flat[i] or piece.strip()
        same_word = i and row[i] == row[i - 1] and not {i, i - 1} & marks
        if same_word and piece.strip() and pieces[i - 1].strip() and not piece[:1].isspace():
            assert flat[i] == flat[i - 1], "a word is hidden as a whole or not at all"


def test_a_row_depends_on_its_draw_alone():
    windows, _ = windows_of(Words())
    one, other, again = (windows.batch([1, 2], draws) for draws in ([(0, 5), (0, 6)], [(0, 5), (0, 7)], None))
    np.testing.assert_array_equal(one["tokens"][0], other["tokens"][0])
    assert (one["tokens"][1] != other["tokens"][1]).any()
    np.testing.assert_array_equal(again["tokens"], windows.batch([1, 2])["tokens"])
    np.testing.assert_array_equal(
        TrainBatches(windows, 4, 0).batch(3)["tokens"][2:], TrainBatches(windows, 4, 0, [2, 3]).batch(3)["tokens"]
    )


def test_an_empty_row_weighs_nothing():
    batch = windows_of(ByteTokenizer())[0].batch([-1])
    assert not batch["weights"].any() and not batch["segment_ids"].any() and not batch["target_bytes"].any()


def test_a_share_of_all_is_an_error():
    with pytest.raises(UserError, match="between 0 and 1"):
        MaskedWords(1.0)


def test_subwords_stand_at_the_first_bytes_of_their_word():
    recipe = WordsOfSubwords(max_bytes=4, subwords=BPE(270))
    windows, tokenizer = windows_of(recipe)
    plain = MaskedWords(0.3).windows(windows.stream, 50, tokenizer)
    batch, bytes_of = windows.batch(np.arange(len(windows))), plain.batch(np.arange(len(windows)))
    hidden = batch["tokens"] == tokenizer.vocab_size
    assert hidden.any() and not (hidden & (bytes_of["weights"] == 0)).any()
    assert batch["target_bytes"].sum() == hidden.sum()  # every hidden byte is asked for, once
    for row in range(len(hidden)):
        for run in np.split(np.flatnonzero(hidden[row]), np.flatnonzero(np.diff(np.flatnonzero(hidden[row])) > 1) + 1):
            if len(run):
                count = int(batch["weights"][row, run].sum())
                assert batch["weights"][row, run[:count]].all()
                ids = batch["targets"][row, run[:count]]
                word = bytes(bytes_of["targets"][row, run].astype(np.uint8))
                assert tokenizer.subwords.decode(ids).lstrip() == word and b" " not in word
                assert run[0] > 0 and (run[-1] < 49 and bytes_of["targets"][row, run[-1] + 1 :].max() >= 254)


ALL = 1 - 1e-12  # of the words


@pytest.mark.parametrize("recipe", TOKENIZERS[:3], ids=["bytes", "bpe", "words"])
def test_a_hidden_word_covers_its_own_bytes_however_it_is_cut(recipe):
    tokenizer = recipe.train(DOCUMENTS)
    batch = MaskedWords(ALL).windows(stream_of(DOCUMENTS[:1], tokenizer), 1000, tokenizer).batch([0])
    ends = np.cumsum([len(tokenizer.token_bytes(int(t))) for t in stream_of(DOCUMENTS[:1], tokenizer).tokens[1:-1]])
    data, words = DOCUMENTS[0], DOCUMENTS[0].split()
    covered, place = batch["target_bytes"][0, 1 : len(ends) + 1], 0
    for word in words:
        start = data.index(word, place)
        place = start + len(word)
        assert covered[(ends > start) & (ends <= place)].sum() == len(word)
    assert covered.sum() == sum(map(len, words))


def test_subwords_of_a_word_of_bytes_are_those_of_the_text():
    recipe = WordsOfSubwords(max_bytes=50, subwords=BPE(290))
    windows, tokenizer = windows_of(recipe)
    read = stream_of(DOCUMENTS[:1], tokenizer.subwords)
    expected = MaskedWords(ALL).windows(read, 1000, tokenizer.subwords).batch([0])
    found = MaskedSubwords(ALL).windows(stream_of(DOCUMENTS[:1], tokenizer), 1000, tokenizer).batch([0])
    for name in ("targets", "target_bytes"):
        np.testing.assert_array_equal(found[name][found["weights"] > 0], expected[name][expected["weights"] > 0])
    ids = found["targets"][found["weights"] > 0]
    assert any(tokenizer.subwords.token_bytes(int(i))[:1] == b" " for i in ids)
