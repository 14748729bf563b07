"""Texts without meaning, to learn from before a text that has some: nested brackets, and random bytes.

A document is a pure function of its number; of every ten, eight are for training and one each for validation and test.
"""

import dataclasses

import numpy as np

from lmlab.data.corpora import Document
from lmlab.errors import UserError

SPLITS = {8: "validation", 9: "test"}
PAIRS = [b"()", b"[]", b"{}", b"<>"]


@dataclasses.dataclass(frozen=True)
class _Synthetic:
    """`count` documents of `size` bytes."""

    validation, test = 0.1, 0.1  # as the numbers are split

    count: int = 200
    size: int = 10_000

    def __post_init__(self):
        if self.count < 10 or self.size < 2 or self.size % 2:
            raise UserError("A synthetic corpus needs a count of at least 10 and an even size of at least 2.")

    def documents(self):
        """Yields every document once."""
        for i in range(self.count):
            data = self._document(np.random.default_rng((0, i)))
            yield Document(f"{type(self).__name__} {i}", data, SPLITS.get(i % 10, "train"))

    def fingerprint(self):
        """Names the baked text."""
        return f"{type(self).__name__.lower()}-{self.count}-{self.size}"


class RandomBytes(_Synthetic):
    """Bytes drawn evenly from all 256: nothing to be learned."""

    def _document(self, rng):
        return rng.integers(0, 256, self.size, dtype=np.uint8).tobytes()


class Brackets(_Synthetic):
    """Well nested brackets of four kinds: a structure like that of sentences, without their words.

    At every place a bracket opens with probability 1/2 (always at depth 0), or else the last one is closed; at the end all
    are, so that the size must be even.
    """

    def _document(self, rng):
        opens, kinds = rng.random(self.size) < 0.5, rng.integers(0, len(PAIRS), self.size)
        text, stack = bytearray(), []
        for place in range(self.size):
            if stack and (len(stack) == self.size - place or not opens[place]):
                text.append(PAIRS[stack.pop()][1])
            else:
                stack.append(kinds[place])
                text.append(PAIRS[stack[-1]][0])
        return bytes(text)
