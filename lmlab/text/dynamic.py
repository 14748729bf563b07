"""Tokens that are merged further, text by text: byte-pair encoding of one batch, from where a tokenizer has cut it
(Feher, Vulić, Minixhofer 2024, "Retrofitting Large Language Models with Dynamic Tokenization").

The most frequent pair of neighbours in the whole batch is joined wherever it stands within a word, and again. What
comes of it need not be in any vocabulary.
"""

import collections
import heapq
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmlab.errors import UserError

Word = tuple[bytes, ...]


def words_of(tokenizer, text: bytes) -> list[Word]:
    """The tokens of a text, by the words (pre-tokens) that they lie in. UserError for a tokenizer without words; a
    token that spans two of them is a word by itself."""
    if not hasattr(tokenizer, "word_ends"):
        raise UserError("Dynamic tokenization merges within words: this tokenizer has none.")
    ids, ends = tokenizer.encode(text), tokenizer.word_ends(text)
    first, last = np.searchsorted(ends, tokenizer.byte_spans(ids) - (0, 1), "right").T  # words of its outer bytes
    at = zip(first.tolist(), last.tolist(), ids.tolist(), strict=True)
    groups = itertools.groupby(at, key=lambda token: token[:2])
    return [tuple(tokenizer.token_bytes(token) for _, _, token in group) for _, group in groups]


class Merged(NamedTuple):
    """A batch of texts in merged tokens."""

    texts: list[list[bytes]]
    merges: int  # distinct pairs that were joined
    before: int  # tokens
    words: int  # and so the fewest tokens that there could be

    @property
    def tokens(self):
        """In all texts."""
        return sum(map(len, self.texts))


def merge(batch: Sequence[Sequence[Word]], share: float = 1.0, merges: int | None = None) -> Merged:
    """Join pairs until `share` of the tokens beyond one per word are gone, or after so many `merges`, or where no word
    has two tokens left.

    `batch`: texts as `words_of` gives them. A pair counts wherever its tokens are neighbours; of equally frequent
    pairs the first by their bytes is joined, everywhere from left to right.
    """
    if not 0 <= share <= 1 or (merges is not None and merges < 0):
        raise UserError("Merging takes a share between 0 and 1 of what can be merged, and at least 0 merges.")
    counts = collections.Counter(word for text in batch for word in text)
    now, pairs, holders = {word: word for word in counts}, collections.Counter(), collections.defaultdict(set)

    def add(word, sign):
        for pair in zip(now[word], now[word][1:]):
            pairs[pair] += sign * counts[word]
            holders[pair].add(word)
            if pairs[pair]:
                heapq.heappush(queue, (-pairs[pair], pair))

    queue = []
    for word in counts:
        add(word, 1)
    before, words = sum(len(word) * n for word, n in counts.items()), sum(counts.values())
    left, done = before, 0
    goal = before - share * (before - words)
    while left > goal + 1e-9 and (merges is None or done < merges) and queue:
        count, pair = heapq.heappop(queue)
        if pairs[pair] != -count or not pairs[pair]:  # it has changed since
            continue
        for word in holders.pop(pair):
            tokens = _joined(now[word], pair)
            if len(tokens) < len(now[word]):
                add(word, -1)
                left -= counts[word] * (len(now[word]) - len(tokens))
                now[word] = tokens
                add(word, 1)
        done += 1
    texts = [[token for word in text for token in now[word]] for text in batch]
    return Merged(texts, done, before, words)


def _joined(tokens, pair):
    result, i = [], 0
    while i < len(tokens):
        width = 2 if tokens[i : i + 2] == pair else 1
        result.append(b"".join(tokens[i : i + width]))
        i += width
    return tuple(result)
