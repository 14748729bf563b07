"""Texts that are looked at alone, from their beginning, each in a row of its own."""

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows
from lmlab.errors import UserError


class Rows:
    """A row for each text, as windows: whole, behind BOS and with its end. UserError if one does not fit into `length`
    tokens."""

    def __init__(self, texts, length, tokenizer):
        self._each = [Windows(stream_of([text], tokenizer), length, tokenizer) for text in texts]
        longest = max(len(windows.stream.tokens) for windows in self._each)
        if longest > length + 1:
            raise UserError(f"A text of {longest} tokens does not fit into rows of {length}.")

    def __len__(self):
        return len(self._each)

    def batch(self, indices, draws=None):
        """As `Windows.batch`."""
        rows = [self._each[max(i, 0)].batch([min(i, 0)]) for i in indices]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
