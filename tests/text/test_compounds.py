"""Hyphens and seams are one another's inverse; the splitter finds what trying all splits finds."""

import itertools
import math

import numpy as np
import pytest

from lmlab.text.bpe import BPE
from lmlab.text.compounds import FrequencySplitter, hyphenated, is_hard, joined, seams


def test_seams_give_the_hyphens_back():
    for word in (b"foot-ball-er", b"whole", "über-fluß".encode()):
        assert hyphenated(joined(word), seams(word)) == word
    assert seams(b"foot-ball-er") == [4, 8] and seams(b"whole") == []


def slowest(word, counts, shortest):
    """The best of all splits."""
    best = (-math.inf, 0, word)
    for n in range(len(word)):
        for at in itertools.combinations(range(1, len(word)), n):
            parts = hyphenated(word, at).split(b"-")
            if all(part in counts and len(part) >= shortest for part in parts):
                mean = sum(math.log(counts[part]) for part in parts) / len(parts)
                best = max(best, (mean, -len(parts), b"-".join(parts)))
    return best[2]


@pytest.mark.parametrize("seed", range(20))
def test_the_splitter_finds_the_highest_mean(seed):
    rng = np.random.default_rng(seed)
    word = bytes(rng.integers(97, 99, 9).astype(np.uint8))
    spans = [(i, j) for i in range(9) for j in range(i + 2, 10) if rng.random() < 0.5]
    counts = {word[i:j]: int(rng.integers(1, 10**6)) for i, j in spans}
    assert FrequencySplitter(counts, 2).split(word) == slowest(word, counts, 2)


def test_a_word_commoner_than_its_parts_stays_whole():
    counts = {b"together": 90, b"get": 80, b"her": 70, b"tog": 1, b"foot": 50, b"ball": 40, b"football": 3}
    splitter = FrequencySplitter(counts)
    assert splitter.split(b"together") == b"together" and splitter.split(b"football") == b"foot-ball"
    assert splitter.split(b"xyzzy") == b"xyzzy" and splitter.split(b"") == b""


def test_hard_is_where_a_token_lies_across_a_seam():
    tokenizer = BPE(262).train([b" ab ab ab ab cd cd cd abcd bc bc bc bc bc bc bc bc"] * 3)
    assert {t for t in map(tokenizer.token_bytes, range(tokenizer.vocab_size)) if len(t) > 1} >= {b"bc"}
    assert is_hard(b"ab-cd", tokenizer) and not is_hard(b"a-bc-d", tokenizer) and not is_hard(b"abcd", tokenizer)
