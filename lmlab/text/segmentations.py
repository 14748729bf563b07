"""Other ways to write a text in the tokens of a vocabulary: StochasTok's splits, and byte-pair encoding with dropout."""

import numpy as np

from lmlab.errors import UserError


class Splits:
    """Every way to write a token of `tokenizer` as two others (StochasTok, arXiv 2506.01687).

    The table is made from the vocabulary whenever it is needed and kept nowhere. (The authors' code keeps it as JSON, which
    turns ids into strings, so that on every run after the first it finds no split; and its chance has no seed.)
    UserError for a vocabulary in which no token is two others.
    """

    def __init__(self, tokenizer):
        tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        id_of = {token: i for i, token in enumerate(tokens) if token}
        pairs = [
            [(id_of[t[:cut]], id_of[t[cut:]]) for cut in range(1, len(t)) if t[:cut] in id_of and t[cut:] in id_of]
            for t in tokens
        ]
        self._bounds = np.concatenate([[0], np.cumsum([len(of) for of in pairs])]).tolist()
        self._pairs = [pair for of in pairs for pair in of]
        if not self._pairs:
            raise UserError("Splitting tokens needs a subword vocabulary: here no token can be written as two others.")

    def of(self, token):
        """The pairs of ids that `token` can be written as."""
        return self._pairs[self._bounds[token] : self._bounds[token + 1]]

    def split(self, ids, times, rng):
        """`times` times, a position is drawn, and its token replaced by a pair drawn among its own, if it has any.

        Returns (pieces, origins): int32 ids, and which of `ids` each is a piece of.
        """
        pieces, origins = np.asarray(ids).tolist(), list(range(len(ids)))
        for _ in range(times):
            at = int(rng.integers(len(pieces)))
            if pairs := self.of(pieces[at]):
                pieces[at : at + 1] = pairs[int(rng.integers(len(pairs)))]
                origins.insert(at, origins[at])
        return np.array(pieces, np.int32), np.array(origins, np.int64)


class Merges:
    """The merges of a `BPETokenizer`, to be applied with dropout (Provilkov et al. 2020, arXiv 1910.13267)."""

    def __init__(self, tokenizer):
        if not hasattr(tokenizer, "merges"):
            raise UserError("BPE-dropout needs a BPE tokenizer: this one has no merges.")
        merges = tokenizer.merge_ids().astype(np.int64)
        self._size = tokenizer.vocab_size
        keys = merges[:, 0] * self._size + merges[:, 1]
        self._rank = np.argsort(keys)
        self._keys, self._merged = keys[self._rank], merges[:, 2]
        self._tokenizer, self._byte_ids = tokenizer, np.array(tokenizer.byte_ids, np.int64)

    def segment(self, data, ends, dropout, rng):
        """Encode the words of `data`, which end at the bytes `ends`; each step of a word applies the first in order of the
        merges that it could take, of which every one is dropped with probability `dropout`; a word is done when none is left
        (algorithm 1). Returns (ids, word of each), both int64."""
        ends = np.asarray(ends, np.int64)
        ids = self._byte_ids[np.frombuffer(data, np.uint8)]
        word = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        going, none = np.ones(len(ends), bool), np.iinfo(np.int64).max
        while len(ids) > 1 and going.any() and len(self._keys):
            key = ids[:-1] * self._size + ids[1:]
            at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
            possible = (self._keys[at] == key) & (word[:-1] == word[1:]) & going[word[:-1]]
            possible &= rng.random(len(possible)) >= dropout
            where = np.flatnonzero(possible)
            best = np.full(len(ends), none)  # by rank, then from the left
            np.minimum.at(best, word[where], self._rank[at[where]] * len(ids) + where)
            going = best < none
            rank, where = np.divmod(best[going], len(ids))
            ids[where] = self._merged[rank]
            ids, word = np.delete(ids, where + 1), np.delete(word, where + 1)
        return ids, word

    def drop(self, ids, room, dropout, rng):
        """Encode the words of the text of `ids` again, with dropout.

        The first and the last word, which may be parts of words, stay as they are; and so does every word that would bring
        the text above `room` tokens. Returns (pieces, origins): int32 ids, and of each the one of `ids` that holds its last
        byte.
        """
        data, spans = self._tokenizer.decode(ids), self._tokenizer.byte_spans(ids)
        ends = self._tokenizer.word_ends(data)
        new, word = self.segment(data, ends, dropout, rng)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        first, last = np.searchsorted(spans[:, 0], starts), np.searchsorted(spans[:, 1], ends) + 1
        new_first, new_last = np.searchsorted(word, np.arange(len(ends))), np.searchsorted(word, np.arange(len(ends)), "right")
        pieces, origins, done = [], [], 0
        room -= len(ids)
        lengths = self._tokenizer.token_lengths()
        for w in range(1, len(ends) - 1):
            a, b = int(first[w]), int(last[w])
            growth = int(new_last[w] - new_first[w]) - (b - a)
            aligned = b <= len(ids) and spans[a, 0] == starts[w] and spans[b - 1, 1] == ends[w]
            if not aligned or growth > room:
                continue
            room -= growth
            part = new[new_first[w] : new_last[w]]
            pieces += [ids[done:a], part]
            origins += [np.arange(done, a), np.searchsorted(spans[:, 1], starts[w] + np.cumsum(lengths[part]))]
            done = b
        pieces.append(ids[done:])
        origins.append(np.arange(done, len(ids)))
        return np.concatenate(pieces).astype(np.int32), np.concatenate(origins).astype(np.int64)
