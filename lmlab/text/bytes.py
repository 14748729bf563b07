"""The tokenizer that is none: one token per byte."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """Token id = byte value.

    BOS (254) and EOS (255) are values that never occur in UTF-8. A document that does hold them as raw bytes is still
    kept exactly, because document boundaries are stored as offsets and never found by value.
    """

    @property
    def vocab_size(self) -> int:
        return 256

    @property
    def bos(self) -> int:
        return 254

    @property
    def eos(self) -> int:
        return 255

    @property
    def bytes_per_token(self) -> float:
        """Source bytes per token, BOS and EOS aside."""
        return 1.0

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe and of the tokenizer, fit for a folder name."""
        return "bytes"

    def train(self, documents: Iterable[bytes]) -> "ByteTokenizer":
        """Nothing to learn: the recipe is the tokenizer."""
        return self

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32 [len(data)], without BOS and EOS."""
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """`encode` of every document."""
        return [self.encode(data) for data in documents]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> bytes:
        """Ids to bytes; with `skip_special`, ids 254 and 255 are taken as BOS and EOS and dropped."""
        ids = np.asarray(ids)
        if skip_special:
            ids = ids[(ids != self.bos) & (ids != self.eos)]
        return ids.astype(np.uint8).tobytes()

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for."""
        return bytes([token])

    def token_lengths(self) -> np.ndarray:
        """Source bytes per id, int32 [vocab_size]: 1 for each."""
        return np.ones(256, np.int32)

    def byte_spans(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Start and end of every id in `decode(ids)`, int64 [n, 2]."""
        starts = np.arange(len(ids))
        return np.stack([starts, starts + 1], axis=-1)

    def save(self, path: str | pathlib.Path) -> None:
        """Write nothing: there is nothing to keep."""

    def load(self, path: str | pathlib.Path) -> "ByteTokenizer":
        """Read nothing."""
        return self
