"""Next-token prediction on a text that is cut into tokens by chance: StochasTok and BPE-dropout.

The stream holds the tokenizer's own tokens; a window of it is cut anew whenever it is read, from its draw alone. Without
draws, as in evaluation, nothing changes: the model is used with the tokenizer's own tokens.
"""

import dataclasses

import numpy as np

from lmlab.data.batches import Windows
from lmlab.data.corruptions import EVALUATION, NextTokens
from lmlab.errors import UserError
from lmlab.text.segmentations import Merges, Splits


@dataclasses.dataclass(frozen=True)
class Resegmented(NextTokens):
    """A row of L positions reads `text_tokens(L)` tokens of the stream, written as at most L others of the same bytes."""

    def positions(self, tokens):
        """Positions that a row needs for so many tokens of the stream; strictly rising."""
        raise NotImplementedError

    def sampler(self, tokenizer):
        """(ids, room, rng) -> (pieces, origins): at most `room` ids of the same bytes, and which of `ids` each is of."""
        raise NotImplementedError

    def text_tokens(self, length):
        """Tokens of the stream that a row of `length` positions reads."""
        low, high = 0, length
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.positions(middle) <= length else (low, middle - 1)
        return max(1, low)

    def flops(self, model, length, ratios=()):
        """Forward FLOPs per token by part, as the model is used: a row of training is longer."""
        return model.flops(self.text_tokens(length), ratios)

    def windows(self, stream, length, tokenizer):
        """`ResegmentedWindows`."""
        return ResegmentedWindows(stream, self.text_tokens(length), length, tokenizer, self.sampler(tokenizer))

    def always(self, stream, length, tokenizer):
        """`windows` that are cut by chance without draws too, always alike: to evaluate with."""
        return ResegmentedWindows(stream, self.text_tokens(length), length, tokenizer, self.sampler(tokenizer), True)


@dataclasses.dataclass(frozen=True)
class StochasTok(Resegmented):
    """Of n tokens, `share` x n times one is drawn and written as two of its own bytes, if the vocabulary has them; the
    pieces may be drawn again (arXiv 2506.01687)."""

    share: float = 0.1

    def __post_init__(self):
        if not 0 <= self.share <= 10:
            raise UserError(f"StochasTok splits a share of the tokens between 0 and 10 times; it is {self.share}.")

    def positions(self, tokens):
        """Each split makes one more."""
        return tokens + int(self.share * tokens)

    def sampler(self, tokenizer):
        """See `Resegmented`."""
        splits = Splits(tokenizer)
        return lambda ids, room, rng: splits.split(ids, min(int(self.share * len(ids)), room - len(ids)), rng)


@dataclasses.dataclass(frozen=True)
class BPEDropout(Resegmented):
    """Every merge that a word could take next is dropped with probability `rate` (arXiv 1910.13267).

    A row has `room` positions for each token of the stream; words that would exceed it stay whole, and so do those at
    the edges of a window or document.
    """

    rate: float = 0.1
    room: float = 1.5

    def __post_init__(self):
        if not 0 <= self.rate <= 1 or self.room < 1:
            raise UserError("BPE-dropout needs a rate in [0, 1] and room for at least one position per token.")

    def positions(self, tokens):
        """As there is room."""
        return int(np.ceil(self.room * tokens))

    def sampler(self, tokenizer):
        """See `Resegmented`."""
        merges = Merges(tokenizer)
        return lambda ids, room, rng: merges.drop(ids, room, self.rate, rng)


class ResegmentedWindows(Windows):
    """`Windows` of `tokens` tokens in rows of `length` positions, their targets written by `sampler`.

    A row's first input stays whole. What starts a document and what ends it are never cut, and every byte is covered by
    exactly one target of one window.
    """

    def __init__(self, stream, tokens, length, tokenizer, sampler, always=False):
        super().__init__(stream, tokens, tokenizer)
        self._positions, self._sampler, self._always = length, sampler, always

    def batch(self, indices, draws=None):
        """As `Windows.batch`, [B, length]."""
        whole = super().batch(indices)
        batch = {name: np.zeros((len(indices), self._positions), array.dtype) for name, array in whole.items()}
        for row, index in enumerate(np.asarray(indices, np.int64)):
            if index < 0:
                continue
            draw = (EVALUATION, int(index)) if draws is None and self._always else draws and draws[row]
            arrays = {name: array[row] for name, array in whole.items()}
            for name, values in (self._cut(arrays, np.random.default_rng(draw)) if draw else arrays).items():
                batch[name][row, : len(values)] = values
        return batch

    def _cut(self, row, rng):
        """The arrays of a row, its targets that are text written anew."""
        used = int(np.count_nonzero(row["segment_ids"]))
        if not used:
            return row
        behind = np.append(row["tokens"][1:used], row["targets"][used - 1])  # each input's next token, scored or not
        text = row["target_bytes"][:used] > 0
        edges = np.concatenate([[0], np.flatnonzero(np.diff(text)) + 1, [used]])
        room, pieces, origins = self._positions - used, [], []
        for begin, end in zip(edges[:-1], edges[1:]):
            ids, of = behind[begin:end], np.arange(end - begin)
            if text[begin]:
                ids, of = self._sampler(ids, len(ids) + room, rng)
                room -= len(ids) - (end - begin)
            pieces.append(ids)
            origins.append(of + begin)
        pieces, origins = np.concatenate(pieces), np.concatenate(origins)
        weights = row["weights"][origins]
        return {
            "tokens": np.append(row["tokens"][:1], pieces[:-1]),
            "targets": np.where(weights > 0, pieces, 0),
            "segment_ids": row["segment_ids"][np.append(0, np.minimum(origins[:-1] + 1, used - 1))],
            "weights": weights,
            "target_bytes": np.where(text[origins], self._lengths[pieces], 0),
        }
