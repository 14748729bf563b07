"""Windows of text with a gap that is to be filled from both sides, mixed with windows as they are."""

import dataclasses
from typing import Any

import numpy as np

from lmlab.data.batches import Windows
from lmlab.data.corruptions import NextTokens
from lmlab.errors import UserError
from lmlab.text.infill import MARKS, AtLines, ids_of


def byte_places(data):
    """Where characters begin in `data`, and its end: int64, rising. An invalid byte is a character."""
    text = data.decode("utf-8", "surrogateescape")
    sizes = [len(character.encode("utf-8", "surrogateescape")) for character in text]
    return np.cumsum([0, *sizes])


@dataclasses.dataclass(frozen=True)
class FillIn(NextTokens):
    """A row, with probability `share`, is the longest part of a document in its window, cut at two places between
    characters and shown as `kind` says; all of it is predicted, from left to right. Without draws no row is.

    A row of L positions reads L / `room` tokens of the stream; what would not fit it stays as it is.
    """

    kind: Any = AtLines()
    share: float = 0.5
    room: float = 1.3

    def __post_init__(self):
        if not 0 <= self.share <= 1 or self.room < 1:
            raise UserError("Filling in needs a share of rows in [0, 1] and room for a position per token.")

    def extra_ids(self, length):
        """The marks."""
        return len(MARKS)

    def text_tokens(self, length):
        """Tokens of the stream that a row of `length` positions reads."""
        return max(1, int(length / self.room))

    def windows(self, stream, length, tokenizer):
        """`FillInWindows`."""
        return FillInWindows(stream, length, tokenizer, self)


class FillInWindows(Windows):
    """`Windows` of `text_tokens(length)` tokens in rows of `length` positions."""

    def __init__(self, stream, length, tokenizer, corruption):
        super().__init__(stream, corruption.text_tokens(length), tokenizer)
        self._positions, self._tokenizer, self._corruption = length, tokenizer, corruption

    def batch(self, indices, draws=None):
        """As `Windows.batch`, [B, length]."""
        whole = super().batch(indices)
        batch = {name: np.zeros((len(indices), self._positions), array.dtype) for name, array in whole.items()}
        for row in range(len(indices)):
            arrays = {name: array[row] for name, array in whole.items()}
            shown = None if draws is None else self._shown(arrays, np.random.default_rng(draws[row]))
            for name, values in (shown or arrays).items():
                batch[name][row, : len(values)] = values
        return batch

    def _shown(self, row, rng):
        """The arrays of a row with a gap; None: as it is."""
        if rng.random() >= self._corruption.share:
            return None
        edges = np.flatnonzero(np.diff(np.pad(row["target_bytes"] > 0, 1)))
        if not len(edges):
            return None
        begin, end = max(zip(edges[::2], edges[1::2]), key=lambda of: of[1] - of[0])
        text = self._tokenizer.decode(row["targets"][begin:end])
        a, b = np.sort(rng.choice(byte_places(text), 2))
        kind = self._corruption.kind
        a, b = kind.moved(text, int(a), int(b), self._tokenizer)
        found = rows_of(kind, text[:a], text[a:b], text[b:], self._tokenizer)
        return found if len(found["tokens"]) <= self._positions else None


def rows_of(kind, prefix, middle, suffix, tokenizer, only_middle=False):
    """The arrays of a row: BOS, what is read, what is written, EOS. `only_middle`: what is written and its EOS alone counts,
    and covers the bytes of the middle, by its last position: what a line repeats is no byte of it."""
    read, write = kind.shown(prefix, middle, suffix)
    prompt, answer = ids_of(tokenizer, *read), tokenizer.encode(write)
    ids = np.concatenate([[tokenizer.bos], prompt, answer, [tokenizer.eos]]).astype(np.int32)
    lengths = np.append(tokenizer.token_lengths(), np.zeros(len(MARKS), np.int32))
    covered, weights = lengths[ids[1:]], np.ones(len(ids) - 1, np.float32)
    covered[-1] = 0
    if only_middle:
        weights[: len(prompt)] = covered[:] = 0
        covered[-1] = len(middle)
    return {
        "tokens": ids[:-1],
        "targets": ids[1:],
        "segment_ids": np.ones(len(ids) - 1, np.int32),
        "weights": weights,
        "target_bytes": covered,
    }
