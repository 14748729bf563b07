"""Windows in which words of several tokens stand as one position, with their characters beside (XRayEmb).

A character is a byte. A word is a run of letters with the space before it, a letter being one of ASCII or any byte
above.
"""

import dataclasses
import re

import numpy as np

from lmlab.data.batches import Windows
from lmlab.data.corruptions import NextTokens
from lmlab.errors import UserError
from lmlab.text.multi_word import LETTER, WORD

NONE = -1  # behind the last character


@dataclasses.dataclass(frozen=True)
class SpelledWords(NextTokens):
    """`NextTokens`, but words of two tokens or more and at most `longest` bytes are one position each: the id above
    the tokenizer's as token and as target. "inputs", int32 [B, words, longest]: their bytes, -1 behind each;
    "input_segment_ids", int32 [B, words]: the position that a word stands at, 0 where there is none.

    A row has room for `room` words per position; further ones, and those that the window's edges may have cut, stay as
    tokens. In training a word is taken with probability `chance`, in evaluation always. Rows cover as many tokens as
    those of `NextTokens`, and have empty positions at their end in place of those that were saved.
    """

    longest: int = 16
    room: float = 0.35
    chance: float = 1.0

    def __post_init__(self):
        if self.longest < 2 or not 0 < self.room <= 1 or not 0 < self.chance <= 1:
            raise UserError("Spelled words have two bytes or more; room and chance lie above 0 and are at most 1.")

    @property
    def continues(self):
        """Not token by token."""
        return False

    def extra_ids(self, length):
        """The id of all words of several tokens."""
        return 1

    def words(self, length):
        """Words that a row of `length` positions has room for."""
        return max(1, int(self.room * length))

    def windows(self, stream, length, tokenizer):
        """`SpelledWindows`."""
        return SpelledWindows(stream, length, tokenizer, self)

    def shapes(self, length):
        """{array of a batch: its shape without the rows}."""
        words = self.words(length)
        return super().shapes(length) | {"inputs": (words, self.longest), "input_segment_ids": (words,)}

    def bytes_per_window_token(self, stream, tokenizer):
        """Source bytes per token of the stream. `flops` are of each of these, joined or not: rows are no shorter."""
        return stream.bytes_per_token(tokenizer)

    def flops(self, model, length, ratios=()):
        """Forward FLOPs per token of the window by part."""
        return model.flops(length, self.words(length))


class SpelledWindows(Windows):
    """`Windows` with words of several tokens joined."""

    def __init__(self, stream, length, tokenizer, corruption):
        super().__init__(stream, length, tokenizer)
        self._corruption, self._word = corruption, tokenizer.vocab_size
        self._bytes = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        matching = lambda pattern: np.array([bool(re.fullmatch(pattern, data)) for data in self._bytes])  # noqa: E731
        self._letters, self._head = matching(LETTER + rb"+"), matching(WORD.pattern)
        self._space = np.array([data == b" " for data in self._bytes])
        self._inside = self._space | np.array([bool(re.fullmatch(LETTER, data[-1:])) for data in self._bytes])

    def batch(self, indices, draws=None):
        """As `Windows.batch`, with words joined, and what `SpelledWords` says."""
        batch, c = super().batch(indices), self._corruption
        B, L = batch["tokens"].shape
        words = c.words(L)
        batch["inputs"] = np.full((B, words, c.longest), NONE, np.int32)
        batch["input_segment_ids"] = np.zeros((B, words), np.int32)
        for row in range(B):
            found = self._words(batch["tokens"][row])
            if draws is not None:
                taken = np.random.default_rng(draws[row]).random(len(found)) < c.chance
                found = [word for word, take in zip(found, taken, strict=True) if take]
            if found := found[:words]:
                self._join({name: array[row] for name, array in batch.items()}, found)
        return batch

    def _words(self, ids_L):
        """[(begin, end, bytes)] of the words of several tokens, none of which touches an edge of the window."""
        letters_L = self._letters[ids_L]
        begins_L = self._head[ids_L] & ~(letters_L & np.append(False, self._inside[ids_L[:-1]]))
        begins_L |= self._space[ids_L] & np.append(letters_L[1:], False)
        begins_L[0] = False
        found, L = [], len(ids_L)
        for begin in np.flatnonzero(begins_L).tolist():
            end = begin + 1
            while end < L and letters_L[end]:
                end += 1
            data = b"".join(self._bytes[i] for i in ids_L[begin:end])
            if 1 < end - begin and end < L and len(data) <= self._corruption.longest:
                found.append((begin, end, data))
        return found

    def _join(self, row, found):
        """Change the arrays of one row."""
        L = len(row["tokens"])
        keep_L, last_L = np.ones(L, bool), np.arange(L)  # last of the tokens that a position stands for
        for begin, end, data in found:
            keep_L[begin + 1 : end] = False
            last_L[begin] = end - 1
            row["tokens"][begin] = row["targets"][begin - 1] = self._word
            row["target_bytes"][begin - 1] = len(data)
        place_L = np.cumsum(keep_L) - 1
        for i, (begin, _, data) in enumerate(found):
            row["inputs"][i, : len(data)] = list(data)
            row["input_segment_ids"][i] = place_L[begin]
        at, n = np.flatnonzero(keep_L), int(keep_L.sum())
        for name in ("tokens", "segment_ids", "targets", "weights", "target_bytes"):
            kept = row[name][at if name in ("tokens", "segment_ids") else last_L[at]]
            row[name][:n], row[name][n:] = kept, 0


def spelled_vocabulary(tokenizer, longest, held_out=0.1, seed=0):
    """(characters int32 [V, longest], -1 behind; known, held: bool [V]): of the tokens of at most `longest` bytes,
    those to learn from, and the share `held_out`, drawn from those of two bytes or more, to be asked."""
    each = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    characters = np.full((len(each), longest), NONE, np.int32)
    fits = np.array([0 < len(data) <= longest for data in each])
    for token in np.flatnonzero(fits):
        characters[token, : len(each[token])] = list(each[token])
    asked = np.random.default_rng(seed).random(len(each)) < held_out
    held = asked & fits & np.array([len(data) > 1 for data in each])
    return characters, fits & ~held, held
