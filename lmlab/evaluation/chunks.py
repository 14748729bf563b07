"""What a hierarchy's chunks are like: how long, and how often they start at the edges of words."""

import numpy as np

from lmlab.models.chunkers import spacelike

LONGEST = 16  # the last bin of the histogram holds all chunks at least this long


def at_bytes(batch, starts, lengths):
    """`batch` and `starts` without the ids that stand for no byte (`lengths` 0): what started at one of these, the end of
    a word, starts at the byte behind it."""
    keep_BL = lengths[batch["tokens"]] > 0
    if keep_BL.all():
        return batch, starts
    order_BL = np.argsort(~keep_BL, axis=1, kind="stable")
    front = lambda x_BL: np.take_along_axis(np.where(keep_BL, x_BL, 0), order_BL, axis=1)  # noqa: E731
    symbol_BL = np.pad(~keep_BL, ((0, 0), (1, 0)))[:, :-1]
    moved = []
    for start_BL in starts:
        for _ in range(1 + int(lengths.size - np.count_nonzero(lengths))):  # a word ends with so many symbols at most
            start_BL = start_BL | (symbol_BL & np.pad(start_BL, ((0, 0), (1, 0)))[:, :-1])
        moved.append(front(start_BL).astype(bool))
    return batch | {"tokens": front(batch["tokens"]), "segment_ids": front(batch["segment_ids"])}, tuple(moved)


class ChunkStatistics:
    """Sums over batches of a byte model's chunk starts, per stage."""

    def __init__(self):
        self._stages = []

    def add(self, batch, starts):
        """`batch` as the model read it, one token per byte; `starts`: per stage, bool [B, L] at its input positions."""
        read_BL = batch["segment_ids"] > 0
        space_BL = spacelike(batch["tokens"]) & read_BL
        before_BL = np.pad(space_BL, ((0, 0), (1, 0)))[:, :-1]
        word_BL = space_BL & ~before_BL  # where SpaceByte starts a chunk
        after_BL = np.pad(word_BL, ((0, 0), (1, 0)))[:, :-1] & read_BL
        for s, start_BL in enumerate(starts):
            if s == len(self._stages):
                self._stages.append({"lengths": np.zeros(LONGEST, np.int64), "counts": np.zeros(4, np.int64)})
            lengths = np.concatenate([np.diff(np.flatnonzero(row)) for row in start_BL])
            sums = self._stages[s]
            sums["lengths"] += np.bincount(np.minimum(lengths, LONGEST), minlength=LONGEST + 1)[1:]
            edge_BL, found_BL = word_BL | after_BL, start_BL | np.pad(start_BL, ((0, 0), (0, 1)))[:, 1:]
            pairs = (edge_BL & start_BL, start_BL, found_BL & word_BL, word_BL)
            sums["counts"] += [int(x.sum()) for x in pairs]

    def values(self):
        """Per stage s, `stage<s>/`:

        `chunk_lengths`: share of chunks of 1, 2, .. positions, the last bin open;
        `at_words`: share of the starts that lie on the first white space (or other spacelike byte) after a word, or on
        the byte behind it; `words_found`: share of these places with a start on either byte.
        """
        result = {}
        for s, sums in enumerate(self._stages):
            hits, starts, found, words = (int(x) for x in sums["counts"])
            lengths = sums["lengths"] / max(1, sums["lengths"].sum())
            result[f"stage{s}/chunk_lengths"] = [round(float(x), 5) for x in lengths]
            result[f"stage{s}/at_words"] = hits / max(1, starts)
            result[f"stage{s}/words_found"] = found / max(1, words)
        return result
