"""Byte-pair encoding seen step by step: how often every pair of neighbouring tokens occurs before each merge.

A BPE trainer counts pairs within pre-tokens (words), merges the most frequent pair, and counts again. Here the merges
are given, and the counts are those that a trainer would see on a text, or on several texts at once.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import regex

from lmlab.text.bpe import valid_texts

Pair = tuple[bytes, bytes]

# GPT-2's pre-tokenizer, which the library's byte-level one applies (a test compares them).
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PRE_TOKEN = regex.compile(GPT2)


class Step(NamedTuple):
    """What there is to choose from before a merge."""

    merge: int  # index into `pairs`
    pairs: list[Pair]  # every pair that has occurred so far; grows from step to step
    counts: np.ndarray  # float64 [pairs, corpora]; a view that holds until the next step


def count_words(documents: Iterable[bytes]) -> collections.Counter:
    """{pre-token: how often it occurs} in the documents' valid UTF-8 text, under GPT-2's pre-tokenizer."""
    words = collections.Counter()
    for data in documents:
        for text in valid_texts(data):
            words.update(PRE_TOKEN.findall(text))
    return collections.Counter({word.encode(): count for word, count in words.items()})


def join(corpora: Sequence[Mapping[bytes, float]]) -> dict[bytes, np.ndarray]:
    """{pre-token: its counts in each corpus, [corpora]}."""
    joined: dict[bytes, np.ndarray] = {}
    for i, words in enumerate(corpora):
        for word, count in words.items():
            if word not in joined:
                joined[word] = np.zeros(len(corpora))
            joined[word][i] = count
    return joined


def merge_steps(merges: Iterable[Pair], words: Mapping[bytes, np.ndarray]) -> Iterator[Step]:
    """Yields a `Step` before each merge, in order. `words`: {pre-token: counts [corpora]}, as `join` gives them.

    A pair counts once at every place where its two tokens are neighbours, places that overlap included ("aaa" has two
    of ("a", "a")). Only the words that hold a merged pair are counted anew.
    """
    parts = [[bytes([byte]) for byte in word] for word in words]
    weights = np.array(list(words.values()), float).reshape(len(parts), -1)
    pairs: list[Pair] = []
    index: dict[Pair, int] = {}
    holders: list[set[int]] = []  # per pair: the words that hold it, or once did
    counts = np.zeros((0, weights.shape[1]))

    def row_of(pair):
        if pair not in index:
            index[pair] = len(pairs)
            pairs.append(pair)
            holders.append(set())
        return index[pair]

    def rows_of(word):
        rows = [row_of(pair) for pair in zip(parts[word], parts[word][1:])]
        for row in rows:
            holders[row].add(word)
        return rows

    before = [rows_of(word) for word in range(len(parts))]
    changes = [(word, row, 1) for word, rows in enumerate(before) for row in rows]
    for merge in merges:
        at = row_of(merge)
        if len(pairs) > len(counts):
            counts = np.concatenate([counts, np.zeros((max(1024, len(pairs)), weights.shape[1]))])
        if changes:
            word, row, sign = np.array(changes).T
            np.add.at(counts, row, sign[:, None] * weights[word])
        yield Step(at, pairs, counts[: len(pairs)])
        held, changes = holders[at], []
        holders[at] = set()
        for word in held:
            changes += [(word, row, -1) for row in before[word]]
            parts[word] = apply(merge, parts[word])
            before[word] = rows_of(word)
            changes += [(word, row, 1) for row in before[word]]


def apply(merge: Pair, tokens: list[bytes]) -> list[bytes]:
    """The tokens with every occurrence of the pair joined, from left to right."""
    first, second = merge
    result, i = [], 0
    while i < len(tokens):
        if i + 1 < len(tokens) and tokens[i] == first and tokens[i + 1] == second:
            result.append(first + second)
            i += 2
        else:
            result.append(tokens[i])
            i += 1
    return result
