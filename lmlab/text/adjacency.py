"""Which two tokens of a byte-pair encoding may stand next to one another, told from its merges.

Two encoded texts put together are encoded as both were if no merge crosses the seam. A seam has on its left the last
token's right spine (the token, its right part, the right part of that, ... down to a character) and on its right a left
spine. Each part lives from the merge that made it to the merge that uses it up, and a pair of parts that live at the same
time is merged across if its own merge comes before either is used up. A sequence is canonical where all its neighbours
are, so that pairs are all there is to know.
"""

import functools
import json

import numpy as np

from lmlab.errors import UserError

LAST = np.iinfo(np.int32).max  # later than every merge
KEPT = 2048  # rows of the table that are kept, of `vocab_size` bytes each


class Adjacency:
    """The merges of a tokenizer's `definition` (JSON of the `tokenizers` library, model BPE)."""

    def __init__(self, definition, vocab_size):
        model = json.loads(definition)["model"]
        if "merges" not in model:
            raise UserError(f"A {model.get('type', 'tokenizer')} tokenizer has no merges; this needs a BPE.")
        vocabulary = model["vocab"]
        self._size = vocab_size
        self._rank, made = {}, {}  # of a pair of ids; the pairs that make an id
        for rank, pair in enumerate(model["merges"]):
            names = pair.split(" ") if isinstance(pair, str) else pair
            left, right = (vocabulary[name] for name in names)
            if self._rank.setdefault((left, right), rank) == rank:
                made.setdefault(vocabulary["".join(names)], []).append((rank, left, right))
        self._left, self._right = np.full(vocab_size, -1), np.full(vocab_size, -1)
        self._born = np.full(vocab_size, LAST, np.int64)
        depth = np.zeros(vocab_size, np.int64)
        for name, token in sorted(vocabulary.items(), key=lambda item: len(item[0])):
            if len(name) == 1 or (name.startswith("<0x") and token not in made):
                self._born[token] = -1
                continue
            for rank, left, right in made.get(token, ()):
                born = max(rank, self._born[left], self._born[right])
                if born < LAST and not self._crossed(left, right, born):
                    self._left[token], self._right[token], self._born[token] = left, right, born
                    depth[token] = depth[left] + 1
                    break
        self.reachable = self._born < LAST  # bool [V]: what its own text is encoded to
        self._levels = [np.flatnonzero((depth == d) & (self._left >= 0)) for d in range(1, depth.max() + 1)]
        rows = {}
        for (left, right), rank in self._rank.items():
            rows.setdefault(left, []).append((right, rank))
        self._rows = {left: np.array(pairs).T for left, pairs in rows.items()}
        self.follows = functools.lru_cache(KEPT)(self._follows)

    def _spine(self, token, side, dies):
        """Yields (part, when it is used up), from the token inwards."""
        while token >= 0:
            yield token, dies
            token, dies = side[token], self._born[token]

    def _crossed(self, left, right, dies=LAST):
        """Whether a merge crosses the seam of two tokens before both are merged, at `dies`."""
        for a, a_dies in self._spine(left, self._right, dies):
            for b, b_dies in self._spine(right, self._left, dies):
                rank = self._rank.get((a, b))
                if rank is not None and _merged(rank, max(rank, self._born[a], self._born[b]), a_dies, b_dies):
                    return True
        return False

    def _follows(self, token):
        """bool [V]: which tokens may stand behind `token` in one word."""
        crossed_top, crossed = np.zeros((2, self._size), bool)
        for a, a_dies in self._spine(token, self._right, LAST):
            if a not in self._rows:
                continue
            rank_V = np.full(self._size + 1, LAST, np.int64)  # the last: of no part, -1
            rights, ranks = self._rows[a]
            rank_V[rights] = ranks
            when_V = np.maximum(np.maximum(rank_V[:-1], self._born[a]), self._born)
            crossed_top |= _merged(rank_V[:-1], when_V, a_dies, LAST)
            when_V = np.append(when_V, LAST)
            crossed |= _merged(rank_V[self._left], when_V[self._left], a_dies, self._born)
        for level in self._levels:
            crossed[level] |= crossed[self._left[level]]
        return self.reachable & ~crossed & ~crossed_top


def _merged(rank, when, a_dies, b_dies):
    """Whether a pair of this rank is merged at `when`: of equal merges the leftmost is first."""
    return (when < a_dies) & ((when < b_dies) | ((when == b_dies) & (when == rank) & (rank < LAST)))
