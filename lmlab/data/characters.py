"""The characters of a row's tokens beside the tokens, for models that read both (CharBERT, arXiv 2011.01513)."""

import dataclasses
import math
from typing import Any

import numpy as np

from lmlab.data.masked_words import MaskedWords
from lmlab.errors import UserError

HIDDEN, EMPTY = 256, 257  # what a hidden token, and one without bytes, such as BOS, has for its only character


@dataclasses.dataclass(frozen=True)
class Characters:
    """Another corruption's batches, and the bytes of the tokens in them as "inputs", end to end; "input_segment_ids"
    number the token that each is of, from 1, with 0 behind the last.

    A row has `room` for so many bytes per token; tokens whose bytes no longer fit are without.
    """

    inner: Any = MaskedWords()
    room: float = 4.0

    def __post_init__(self):
        if self.room < 1:
            raise UserError(f"A row has room for at least one character per token, not for {self.room}.")

    @property
    def continues(self):
        """Whether a model trained so can continue a text: as of the other corruption."""
        return self.inner.continues

    def extra_ids(self, length):
        """The other corruption's."""
        return self.inner.extra_ids(length)

    def characters(self, length):
        """What a row of `length` tokens has room for."""
        return math.ceil(self.room * length)

    def windows(self, stream, length, tokenizer):
        """`CharacterWindows`."""
        return CharacterWindows(self.inner.windows(stream, length, tokenizer), self.characters(length), tokenizer)

    def bytes_per_window_token(self, stream, tokenizer):
        """Source bytes per token that is read."""
        return stream.bytes_per_token(tokenizer)

    def shapes(self, length):
        """{array of a batch: its shape without the rows}."""
        return self.inner.shapes(length) | dict.fromkeys(("inputs", "input_segment_ids"), (self.characters(length),))

    def flops(self, model, length, ratios=()):
        """Forward FLOPs per token of the window by part."""
        return model.flops(length, self.characters(length))


class CharacterWindows:
    """The windows `inner` with `characters` characters a row."""

    def __init__(self, inner, characters, tokenizer):
        self.stream, self._inner, self._characters = inner.stream, inner, characters
        each = [list(tokenizer.token_bytes(token)) or [EMPTY] for token in range(tokenizer.vocab_size)] + [[HIDDEN]]
        self._lengths = np.array([len(of) for of in each])
        self._first = np.cumsum(self._lengths) - self._lengths
        self._all = np.concatenate(each).astype(np.int32)

    def __len__(self):
        return len(self._inner)

    def batch(self, indices, draws=None):
        """The batch of the inner windows, and {"inputs", "input_segment_ids": int32 [B, characters]}."""
        batch = self._inner.batch(indices, draws)
        found = {name: np.zeros((len(indices), self._characters), np.int32) for name in ("inputs", "input_segment_ids")}
        for row, tokens_L in enumerate(batch["tokens"]):
            ids = tokens_L[batch["segment_ids"][row] > 0]
            length = self._lengths[ids]
            owner = np.repeat(np.arange(len(ids)), length)
            within = np.arange(len(owner)) - (np.cumsum(length) - length)[owner]
            read = self._all[self._first[ids][owner] + within][: self._characters]
            found["inputs"][row, : len(read)] = read
            found["input_segment_ids"][row, : len(read)] = owner[: len(read)] + 1
        return batch | found
