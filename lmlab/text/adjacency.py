"""Which two tokens of a byte-pair encoding may stand next to one another, told from its merges.

Two encoded texts put together are encoded as both were if no merge crosses the seam. A seam has on its left the last
token's right spine (the token, its right part, the right part of that, ... down to a character) and on its right a left
spine. Each part lives from the merge that made it to the merge that uses it up, and a pair of parts that live at the same
time is merged across if its own merge comes before either is used up. A sequence is canonical where all its neighbours
are, so that pairs are all there is to know.

In some published lists a merge comes before those that make its parts: it then follows at once where they have been made.
Where a part could be merged at the very time that it is used up, the library is asked.
"""

import functools
import json

import numpy as np
from tokenizers.models import BPE

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
        self._rank, self._makes = {}, {}  # of a pair of ids: its rank, the last of several, and what it makes
        for rank, pair in enumerate(model["merges"]):
            names = pair.split(" ") if isinstance(pair, str) else pair
            pair = tuple(vocabulary[name] for name in names)
            self._rank[pair], self._makes[pair] = rank, vocabulary["".join(names)]
        made, last = {}, {}  # of an id: the pairs that make it, and the last rank
        for (left, right), rank in sorted(self._rank.items(), key=lambda item: item[1]):
            token = self._makes[left, right]
            made.setdefault(token, []).append((rank, left, right))
            last[token] = rank
        self._in_order = all(max(last.get(t, -1) for t in pair) < rank for pair, rank in self._rank.items())
        self._names, self._library = {token: name for name, token in vocabulary.items()}, _library(model)
        self._left, self._right = np.full(vocab_size, -1), np.full(vocab_size, -1)
        self._born = np.full(vocab_size, LAST, np.int64)
        self._late = np.zeros(vocab_size, bool)  # made behind its rank, as a part was made behind it
        depth = np.zeros(vocab_size, np.int64)
        for name, token in sorted(vocabulary.items(), key=lambda item: len(item[0])):
            if len(name) == 1 or (name.startswith("<0x") and token not in made):
                self._born[token] = -1
                continue
            for rank, left, right in made.get(token, ()):
                born = max(rank, self._born[left], self._born[right])
                if born < LAST and not self._crossed(left, right, born, born > rank):
                    self._left[token], self._right[token], self._born[token] = left, right, born
                    self._late[token], depth[token] = born > rank, depth[left] + 1
                    break
        self.reachable = self._born < LAST  # bool [V]: what its own text is encoded to
        self._levels = [np.flatnonzero((depth == d) & (self._left >= 0)) for d in range(1, depth.max() + 1)]
        rows = {}
        for (left, right), rank in self._rank.items():
            rows.setdefault(left, []).append((right, rank))
        self._rows = {left: np.array(pairs).T for left, pairs in rows.items()}
        self.follows = functools.lru_cache(KEPT)(self._follows)

    def _spine(self, token, side, dies=LAST, late=False):
        """Yields (part, when it is used up, whether by a late merge), from the token inwards."""
        while token >= 0:
            yield token, dies, late
            token, dies, late = side[token], self._born[token], self._late[token]

    def _crossed(self, left, right, dies, late):
        """Whether a merge crosses the seam of two tokens before both are merged, at `dies`, which may be `late`."""
        crossed = tied = False
        for a, a_dies, a_late in self._spine(left, self._right, dies, late):
            for b, b_dies, b_late in self._spine(right, self._left, dies, late):
                rank = self._rank.get((a, b))
                if rank is not None:
                    when = max(rank, self._born[a], self._born[b])
                    crossed |= _merged(rank, when, a_dies, b_dies)
                    tied |= (a, b) != (left, right) and _tied(rank, when, a_dies, a_late, b_dies, b_late)
        if tied and not self._in_order:
            return self._last_merge(self._leaves(left) + self._leaves(right)) != (left, right)
        return crossed

    def _leaves(self, token):
        """Ids of the characters that a token is made of."""
        if self._left[token] < 0:
            return [token]
        return self._leaves(self._left[token]) + self._leaves(self._right[token])

    def _last_merge(self, ids):
        """The pair that makes characters one token, or None where they stay several."""
        last = None
        while len(ids) > 1:
            found = [(self._rank[pair], i) for i, pair in enumerate(zip(ids, ids[1:], strict=False)) if pair in self._rank]
            if not found:
                return None
            _, i = min(found)
            last = ids[i], ids[i + 1]
            ids = [*ids[:i], self._makes[last], *ids[i + 2 :]]
        return last

    def _apart(self, left, right):
        """Whether the text of two tokens is encoded as these two."""
        return [t.id for t in self._library.tokenize(self._names[left] + self._names[right])] == [left, right]

    def _follows(self, token):
        """bool [V]: which tokens may stand behind `token` in one word."""
        crossed_top, crossed, tied, within = np.zeros((4, self._size), bool)
        for a, a_dies, late in self._spine(token, self._right):
            if a not in self._rows:
                continue
            rank_V = np.full(self._size + 1, LAST, np.int64)  # the last: of no part, -1
            rights, ranks = self._rows[a]
            rank_V[rights] = ranks
            when_V = np.maximum(np.maximum(rank_V[:-1], self._born[a]), self._born)
            crossed_top |= _merged(rank_V[:-1], when_V, a_dies, LAST)
            tied |= _tied(rank_V[:-1], when_V, a_dies, late, LAST, False)
            when_V = np.append(when_V, LAST)
            crossed |= _merged(rank_V[self._left], when_V[self._left], a_dies, self._born)
            within |= _tied(rank_V[self._left], when_V[self._left], a_dies, late, self._born, self._late)
        for level in self._levels:
            crossed[level] |= crossed[self._left[level]]
            within[level] |= within[self._left[level]]
        follows = self.reachable & ~crossed & ~crossed_top
        if not self._in_order:
            for other in np.flatnonzero(self.reachable & (tied | within)):
                follows[other] = self._apart(token, other)
        return follows


def _library(model):
    """The merges alone, as the library applies them."""
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    return BPE(model["vocab"], merges)


def _tied(rank, when, a_dies, a_late, b_dies, b_late):
    """Whether a pair could be merged at the very time that one of the two is used up, and one of the merges is late."""
    late = rank < when
    tie = ((when == a_dies) & (late | a_late)) | ((when == b_dies) & (late | b_late))
    return (when < LAST) & (when <= a_dies) & (when <= b_dies) & tie


def _merged(rank, when, a_dies, b_dies):
    """Whether a pair of this rank is merged at `when`: of equal merges the leftmost is first."""
    return (when < a_dies) & ((when < b_dies) | ((when == b_dies) & (when == rank) & (rank < LAST)))
