"""Windows of words with the patterns of what is read and of what is asked for (T-FREE, arXiv 2406.19223)."""

import dataclasses

from lmlab.data.batches import Windows
from lmlab.data.corruptions import NextTokens
from lmlab.text.trigrams import Trigrams, table_of


@dataclasses.dataclass(frozen=True)
class NextPatterns(NextTokens):
    """`NextTokens`, and "inputs" and "target_rows", int32 [B, L, active]: the patterns of tokens and targets, -1 behind.

    A model of patterns needs no dictionary to be trained; to write a text it does.
    """

    trigrams: Trigrams

    @property
    def continues(self):
        """Only with a dictionary: see `lmlab.evaluation.dictionary`."""
        return False

    def windows(self, stream, length, tokenizer):
        """`PatternWindows`."""
        return PatternWindows(stream, length, tokenizer, table_of(self.trigrams, tokenizer))

    def shapes(self, length):
        """{array of a batch: its shape without the rows}."""
        return super().shapes(length) | dict.fromkeys(("inputs", "target_rows"), (length, self.trigrams.active))


class PatternWindows(Windows):
    """`Windows` with the rows of `table` for every token and target."""

    def __init__(self, stream, length, tokenizer, table):
        super().__init__(stream, length, tokenizer)
        self._table = table

    def batch(self, indices, draws=None):
        """As `Windows.batch`, and the patterns."""
        batch = super().batch(indices)
        return batch | {"inputs": self._table[batch["tokens"]], "target_rows": self._table[batch["targets"]]}
