"""Misspelt words: words and nothing else, the same again for the same draw, and their originals as targets."""

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.batches import TrainBatches
from lmlab.data.masked_words import BLANK, MaskedWords
from lmlab.data.noisy_words import MisspeltWords, NoisyWindows, NoisyWords, misspelt
from lmlab.errors import UserError
from lmlab.text.bpe import BPE

DOCUMENTS = [
    b"one two\n    three  four(five, six) \xfe\xff seven\r\n" * 20,
    "sechs sieben été naïve 世界 über".encode() * 9,
    b"x yy",
]
TOKENIZER = BPE(290).train(DOCUMENTS)
STREAM = stream_of(DOCUMENTS, TOKENIZER)


def windows_of(corruption, length=50):
    return corruption.windows(STREAM, length, TOKENIZER)


@pytest.mark.parametrize("seed", range(40))
def test_one_character_changes_and_no_white_space(seed):
    rng = np.random.default_rng(seed)
    for word in (b" four(five,", "naïve".encode(), b"\tab\xff\n", b"aaaa"):
        noisy = misspelt(word, rng)
        assert noisy != word
        body = word.strip(BLANK)
        assert noisy[: word.index(body)] == word[: word.index(body)]
        assert noisy[len(noisy) - len(word) + word.index(body) + len(body) :] == word[word.index(body) + len(body) :]
        new, old = (w.strip(BLANK).decode("utf-8", "surrogateescape") for w in (noisy, word))
        assert abs(len(new) - len(old)) <= 1
        assert len(new) != len(old) or sorted(new) == sorted(old)
    assert misspelt(b" ab ", rng) is None and misspelt(b"\n", rng) is None


def words_of(ids):
    return b"".join(TOKENIZER.token_bytes(int(t)) for t in ids if t < TOKENIZER.vocab_size)


def test_only_words_are_touched_and_the_originals_are_asked_for():
    windows, masked = NoisyWindows(STREAM, 60, TOKENIZER, 0.15, 0.5, 200), windows_of(MaskedWords(0.15), 60)
    rows = np.arange(len(windows))
    draws = [(0, int(r)) for r in rows]
    batch, plain = windows.batch(rows, draws), masked.batch(rows, draws)
    mask, changed = TOKENIZER.vocab_size, 0
    for r in rows:
        read, before = batch["tokens"][r][batch["segment_ids"][r] > 0], plain["tokens"][r][plain["segment_ids"][r] > 0]
        assert len(read) < 200  # nothing has fallen off
        # hidden words and white space are as they were, in the same order
        assert (read == mask).sum() == (before == mask).sum()
        blank = lambda ids: [c for c in words_of(ids) if c in BLANK]  # noqa: E731
        assert blank(read) == blank(before)
        hidden = batch["tokens"][r] == mask
        assert (hidden == (batch["target_bytes"][r] > 0)).all() and (batch["weights"][r][hidden] == 1).all()
        asked = (batch["weights"][r] > 0) & ~hidden
        changed += asked.sum()
        assert set(batch["targets"][r][asked]) <= set(before)
    assert changed > 20
    assert not batch["weights"][batch["segment_ids"] == 0].any()
    assert (batch["weights"] <= 1).all() and not batch["target_bytes"][batch["weights"] == 0].any()


def test_without_noise_the_batch_is_that_of_masked_words():
    rows = np.arange(len(windows_of(NoisyWords())))
    draws = [(0, int(r)) for r in rows]
    for noise, drawn in ((0.0, draws), (0.5, None)):
        found = windows_of(NoisyWords(0.15, noise)).batch(rows, drawn)
        for name, values in windows_of(MaskedWords(0.15)).batch(rows, drawn).items():
            np.testing.assert_array_equal(found[name], values)


def test_a_batch_is_a_function_of_seed_and_step():
    windows = windows_of(NoisyWords(0.15, 0.5))
    one, again, other = TrainBatches(windows, 4, 0), TrainBatches(windows, 4, 0, [2, 3]), TrainBatches(windows, 4, 1)
    np.testing.assert_array_equal(one.batch(3)["tokens"][2:], again.batch(3)["tokens"])
    assert (one.batch(3)["tokens"] != other.batch(3)["tokens"]).any()
    assert one.batch(0)["tokens"].shape == (4, 50)


def test_an_unchanged_word_is_tokenized_as_in_its_text():
    """What a misspelt word is cut from can be put back: words are tokenized apart as they are together."""
    windows = windows_of(NoisyWords(0.15, 1.0), 400)
    plain = windows_of(MaskedWords(0.15), 400).batch([0], [(0, 0)])
    spans = [(a, b) for a, b, _ in windows._chosen(plain, 0, 0, (0, 0))]
    assert len(spans) > 10
    for a, b in spans[:-1]:  # the last may be cut by the row's end
        ids = plain["targets"][0][a:b]
        np.testing.assert_array_equal(TOKENIZER.encode(words_of(ids)), ids)


def test_evaluation_hides_the_same_words_whatever_is_misspelt():
    clean, noisy = (windows_of(MisspeltWords(0.15, noise)).batch([0, 1, -1, 2]) for noise in (0.0, 0.4))
    for row in (0, 1, 3):
        of = lambda batch: batch["targets"][row][batch["target_bytes"][row] > 0]  # noqa: B023, E731
        np.testing.assert_array_equal(of(clean), of(noisy))
    assert (clean["tokens"] != noisy["tokens"]).any()
    assert not clean["weights"][2].any() and not noisy["weights"][2].any() and not noisy["segment_ids"][2].any()
    np.testing.assert_array_equal(noisy["tokens"], windows_of(MisspeltWords(0.15, 0.4)).batch([0, 1, -1, 2])["tokens"])


def test_a_share_above_all_is_an_error():
    with pytest.raises(UserError, match="to misspell lies between 0 and 1"):
        NoisyWords(noise=1.5)
