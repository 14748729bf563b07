"""Compounds: words written with a hyphen wherever two constituents meet, and a splitter by the frequency of words."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np

HYPHEN = b"-"


def joined(word: bytes) -> bytes:
    """The word without its hyphens."""
    return word.replace(HYPHEN, b"")


def seams(word: bytes) -> list[int]:
    """Where constituents meet: offsets in the joined word, rising."""
    parts = word.split(HYPHEN)
    return np.cumsum([len(part) for part in parts[:-1]]).tolist()


def hyphenated(word: bytes, at: Iterable[int]) -> bytes:
    """The joined `word` with hyphens at these offsets."""
    edges = [0, *at, len(word)]
    return HYPHEN.join(word[a:b] for a, b in zip(edges, edges[1:]))


def is_hard(word: bytes, tokenizer) -> bool:
    """Whether a token of the joined word, behind a space, lies across a seam (CompoundPiece, arXiv 2305.14214)."""
    text = b" " + joined(word)
    ends = tokenizer.byte_spans(tokenizer.encode(text))[:, 1] - 1
    return not set(seams(word)) <= set(ends.tolist())


@dataclasses.dataclass(frozen=True)
class FrequencySplitter:
    """The split whose constituents have the highest geometric mean of their frequencies (Koehn & Knight 2003): a word
    stays whole where it is commoner than what it is made of.

    `counts`: of words in a text. A constituent has at least `shortest` bytes and occurs; a word that does not occur and
    cannot be split stays whole.
    """

    counts: Mapping[bytes, int] = dataclasses.field(repr=False)
    shortest: int = 3

    def split(self, word: bytes) -> bytes:
        """`word` with hyphens."""
        n = len(word)
        # best[parts][end]: (sum of logarithms, offset of the last part) of the best cut of word[:end] into so many.
        best = [{0: (0.0, 0)}]
        for parts in range(1, n // self.shortest + 1):
            row = {}
            for end in range(self.shortest * parts, n + 1):
                scores = [
                    (best[-1][start][0] + math.log(self.counts[word[start:end]]), start)
                    for start in range(end - self.shortest + 1)
                    if start in best[-1] and word[start:end] in self.counts
                ]
                if scores:
                    row[end] = max(scores)
            best.append(row)
        means = [(best[parts][n][0] / parts, -parts) for parts in range(1, len(best)) if n in best[parts]]
        if not means:
            return word
        cuts, end = [], n
        for parts in range(-max(means)[1], 0, -1):
            end = best[parts][end][1]
            cuts.append(end)
        return hyphenated(word, sorted(cuts[:-1]))
