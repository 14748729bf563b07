"""Merging within a batch: texts stay the same bytes, words are never crossed, each merge is the most frequent pair."""

import collections

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.text.bpe import train_bpe
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.dynamic import merge, words_of
from lmlab.text.merges import PRE_TOKEN
from lmlab.text.sampled import Sampler, count_substrings, pieces_of, vocabulary_of
from lmlab.text.superwords import train_superwords

TEXT = b"the weather wrote to the other brother, who wrote \xff that weather is another 12345 \xe4\xb8\x96\xe7\x95\x8c weathers "
OLD = train_bpe([TEXT * 9], 275)
BATCH = [words_of(OLD, TEXT), words_of(OLD, b"another weather, another brother"), words_of(OLD, b"")]


def test_words_are_pretokens():
    text = b"it's the weather that we wrote about, 123 times"
    assert [b"".join(word).decode() for word in words_of(OLD, text)] == PRE_TOKEN.findall(text.decode())
    with pytest.raises(UserError, match="has none"):
        words_of(ByteTokenizer(), text)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_merged_tokens_write_the_same_bytes_and_never_cross_words(share):
    made = merge(BATCH, share)
    for tokens, words in zip(made.texts, BATCH, strict=True):
        assert b"".join(tokens) == b"".join(b"".join(word) for word in words)
        at = np.cumsum([0, *map(len, tokens)])
        assert set(np.cumsum([sum(map(len, word)) for word in words])) <= set(at)
    possible = made.before - made.words
    assert made.before - made.tokens >= share * possible - 1e-9
    assert (made.merges == 0) == (share == 0) and made.before == sum(len(w) for x in BATCH for w in x)
    if share == 1:
        assert made.tokens == made.words
    else:  # no more than what was asked for, but for the last merge
        fewer = merge(BATCH, 1.0, max(0, made.merges - 1))
        assert not made.merges or made.before - fewer.tokens < share * possible


def test_each_merge_is_the_most_frequent_pair_of_the_batch():
    """Against counting all pairs anew before each merge."""
    words = [list(word) for text in BATCH for word in text]
    for n in range(1, merge(BATCH).merges + 1):
        pairs = collections.Counter(pair for word in words for pair in zip(word, word[1:]))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [word[i] + word[i + 1]]
                i += 1
        assert [t for x in merge(BATCH, merges=n).texts for t in x] == [t for word in words for t in word]


def test_a_token_over_two_words_stands_alone():
    class OverSpaces:
        words = train_superwords([b"to be or not to be " * 50], 272, 264)

        def __getattr__(self, name):
            return getattr(self.words.words if name == "word_ends" else self.words, name)

    found = words_of(OverSpaces(), b"to be or not to be")
    assert b"".join(b"".join(word) for word in found) == b"to be or not to be"
    assert any(b" " in token[1:] for word in found for token in word)
    assert all(len(word) == 1 for word in found for token in word if b" " in token[1:])


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_sampled_tokenizer_round_trips_and_holds_frequent_substrings(noise):
    texts = [TEXT, b"weather " * 20]
    drawn = Sampler(300, longest=6, noise=noise).draw(texts, np.random.default_rng(0))
    assert drawn.vocab_size == 300
    assert drawn.decode(drawn.encode(TEXT + bytes(range(256)))) == TEXT + bytes(range(256))
    tokens = {drawn.token_bytes(i) for i in range(256, 298)}
    assert max(map(len, tokens)) <= 6 and len(tokens) == 42
    top = {name for name, _ in count_substrings(texts, 6).most_common(12)}
    assert (top <= tokens) == (noise == 0)
    assert len(drawn.encode(b"weather weather")) < 15


def test_draws_are_a_function_of_the_generator():
    ids = [Sampler(300, noise=0.01).draw([TEXT], np.random.default_rng(seed)).fingerprint for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    with pytest.raises(UserError, match="too few"):
        Sampler(5000).draw([TEXT])


def test_pieces_are_the_old_tokenizers():
    drawn = Sampler(300).draw([TEXT])
    pieces = vocabulary_of(OLD, drawn, 7)
    for row, token in zip(pieces[:298], map(drawn.token_bytes, range(298)), strict=True):
        written = OLD.decode(row[row >= 0])
        assert token.startswith(written) and (token == written or row[-1] >= 0)
    assert pieces[298].tolist() == [OLD.bos] + [-1] * 6 and pieces[299, 0] == OLD.eos
    assert pieces_of(OLD, [b"weather weather"], 2).shape == (1, 2)
