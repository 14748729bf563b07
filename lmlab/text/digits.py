"""Bytes, but numbers in groups of up to three digits, counted from the left or from the right."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from lmlab.errors import UserError

_DIGITS = re.compile(rb"[0-9]+")
_PAIRS = [b"%02d" % i for i in range(100)]
_TRIPLES = [b"%03d" % i for i in range(1000)]
_TOKENS = [*(bytes([b]) for b in range(256)), *_PAIRS, *_TRIPLES, b"", b""]
_LENGTHS = np.array([len(token) for token in _TOKENS], np.int32)


def group(digits: bytes, start: str) -> list[bytes]:
    """1234567 from the "left" as 123 456 7, from the "right" as 1 234 567."""
    first = len(digits) % 3 if start == "right" else 0
    return [digits[:first]] * bool(first) + [digits[i : i + 3] for i in range(first, len(digits), 3)]


@dataclasses.dataclass(frozen=True)
class DigitGroups:
    """Recipe and tokenizer: a token for every byte and for every group of two or three digits.

    GPT-3.5 and GPT-4 group from the left.
    """

    start: str = "left"
    bytes_per_token: float = 2.0  # nominal

    def __post_init__(self):
        if self.start not in ("left", "right"):
            raise UserError(f"Digits are grouped from the left or the right, not from {self.start!r}.")

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name."""
        return f"digits-{self.start}"

    @property
    def vocab_size(self) -> int:
        return len(_TOKENS)

    @property
    def bos(self) -> int:
        return self.vocab_size - 2

    @property
    def eos(self) -> int:
        return self.vocab_size - 1

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

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """`encode` of every document."""
        return [self.encode(data) for data in documents]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> bytes:
        """Ids to bytes. BOS and EOS stand for no bytes."""
        return b"".join(_TOKENS[i] for i in np.asarray(ids).tolist())

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; b"" for BOS and EOS."""
        return _TOKENS[token]

    def token_lengths(self) -> np.ndarray:
        """Source bytes per id, int32 [vocab_size]; 0 for BOS and EOS."""
        return _LENGTHS.copy()

    def byte_spans(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Start and end of every id in `decode(ids)`, int64 [n, 2]."""
        ends = np.cumsum(_LENGTHS[np.asarray(ids, np.int64)], dtype=np.int64)
        return np.stack([ends - _LENGTHS[np.asarray(ids, np.int64)], ends], axis=-1)

    def save(self, path: str | pathlib.Path) -> None:
        """Write nothing: there is nothing to keep."""

    def load(self, path: str | pathlib.Path) -> "DigitGroups":
        """Read nothing."""
        return self
