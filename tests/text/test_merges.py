"""The view of a BPE trainer's counts against counting everything anew, and against what the library's trainer chose."""

import collections
import random

import numpy as np
import tokenizers

from lmlab.text.bpe import byte_alphabet, train_bpe
from lmlab.text.merges import apply, count_words, join, merge_steps

TEXTS = [
    b"the cat sat on the mat, and the rat sat on that; aaaa aaaaa banana bananas",
    "été où naïve — 漢字 and 12345 1234 don't they'll".encode() * 2,
]


def naive(merges, words, corpora):
    """Per step {pair: counts}, by counting every word anew."""
    parts = {word: [bytes([b]) for b in word] for word in words}
    for merge in merges:
        counts = collections.defaultdict(lambda: np.zeros(corpora))
        for word, tokens in parts.items():
            for pair in zip(tokens, tokens[1:]):
                counts[pair] += words[word]
        yield merge, counts
        parts = {word: apply(merge, tokens) for word, tokens in parts.items()}


def test_counts_of_every_step_are_those_of_a_naive_loop():
    rng = random.Random(0)
    texts = [*TEXTS, " ".join("".join(rng.choices("ab", k=rng.randint(1, 9))) for _ in range(200)).encode()]
    words = join([count_words([t]) for t in texts])
    merges = train_bpe(texts * 2, 258 + 60).merges + [(b"\x00", b"\x01")]  # the last never occurs
    steps = 0
    for step, (merge, expected) in zip(merge_steps(merges, words), naive(merges, words, len(texts)), strict=True):
        assert step.pairs[step.merge] == merge
        for pair, counts in zip(step.pairs, step.counts, strict=True):
            assert (counts == expected.get(pair, 0)).all(), pair
        assert set(expected) <= set(step.pairs)
        steps += 1
    assert steps == len(merges)


def test_the_trainer_merged_the_most_frequent_pair():
    text = b" ".join(TEXTS[0].split() * 3) + b" the theory of the other mother"
    words = join([count_words([text])])
    merges = train_bpe([text], 258 + 25).merges
    for step in merge_steps(merges, words):
        assert step.counts[step.merge, 0] == step.counts.max()


def test_pre_tokens_are_the_librarys():
    text = "I'd  said:\r\n\tﬁancée e\u0301 İ 漢字 🙂<bos> \n 12345 they'll x_1='s' \u2009 a"
    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    library = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = [bytes(byte_of[c] for c in piece) for piece, _ in library.pre_tokenize_str(text)]
    assert count_words([text.encode()]) == collections.Counter(pieces)


def test_merges_of_a_tokenizer_join_its_tokens():
    tokenizer = train_bpe(TEXTS * 2, 300)
    assert [left + right for left, right in tokenizer.merges] == [tokenizer.token_bytes(i) for i in range(256, 298)]
