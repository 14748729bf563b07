"""Bytes, but numbers in groups of up to three digits, counted from the left or from the right."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from lmlab.errors import UserError
from lmlab.text.tokens import Tokens

_DIGITS = re.compile(rb"[0-9]+")
_PAIRS = [b"%02d" % i for i in range(100)]
_TRIPLES = [b"%03d" % i for i in range(1000)]
_TOKENS = [*(bytes([b]) for b in range(256)), *_PAIRS, *_TRIPLES, b"", b""]


def group(digits: bytes, start: str) -> list[bytes]:
    """1234567 from the "left" as 123 456 7, from the "right" as 1 234 567."""
    first = len(digits) % 3 if start == "right" else 0
    return [digits[:first]] * bool(first) + [digits[i : i + 3] for i in range(first, len(digits), 3)]


@dataclasses.dataclass(frozen=True)
class DigitGroups(Tokens):
    """Recipe and tokenizer: a token for every byte and for every group of two or three digits.

    GPT-3.5 and GPT-4 group from the left.
    """

    start: str = "left"
    bytes_per_token: float = 2.0  # nominal

    def __post_init__(self):
        if self.start not in ("left", "right"):
            raise UserError(f"Digits are grouped from the left or the right, not from {self.start!r}.")

    @property
    def _token_bytes(self) -> list[bytes]:
        return _TOKENS

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name."""
        return f"digits-{self.start}"

    def train(self, documents: Iterable[bytes]) -> "DigitGroups":
        """Nothing to learn."""
        return self

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32 [n], without BOS and EOS."""
        ids, end = [], 0
        for match in _DIGITS.finditer(data):
            ids += data[end : match.start()]
            for digits in group(match[0], self.start):
                ids.append(digits[0] if len(digits) == 1 else (256 if len(digits) == 2 else 356) + int(digits))
            end = match.end()
        return np.array([*ids, *data[end:]], np.int32)

    def save(self, path: str | pathlib.Path) -> None:
        """Write nothing: there is nothing to keep."""

    def load(self, path: str | pathlib.Path) -> "DigitGroups":
        """Read nothing."""
        return self
