"""What every tokenizer can do once the bytes of its ids are known."""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np


class Tokens:
    """A subclass has `_token_bytes`, the bytes of every id, of BOS and EOS, the last two, b""; and `encode`."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, BOS and EOS counted."""
        return len(self._token_bytes)

    @property
    def bos(self) -> int:
        """The id that begins a document."""
        return self.vocab_size - 2

    @property
    def eos(self) -> int:
        """The id that ends a document."""
        return self.vocab_size - 1

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(token) for token in self._token_bytes], np.int32)

    @functools.cached_property
    def _digest(self) -> str:
        """The first 48 bits of a hash of all tokens in order."""
        return hashlib.sha256(b"".join(b"%d:%s" % (len(t), t) for t in self._token_bytes)).hexdigest()[:12]

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """`encode` of every document."""
        return [self.encode(data) for data in documents]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> bytes:
        """Ids to bytes. BOS and EOS stand for no bytes, so `skip_special` changes nothing here."""
        return b"".join(self._token_bytes[token] for token in np.asarray(ids).tolist())

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; b"" for BOS and EOS."""
        return self._token_bytes[token]

    def token_lengths(self) -> np.ndarray:
        """Source bytes per id, int32 [vocab_size]; 0 for BOS and EOS."""
        return self._lengths.copy()

    def byte_spans(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Start and end of every id in `decode(ids)`, int64 [n, 2]."""
        lengths = self._lengths[np.asarray(ids, np.int64)].astype(np.int64)
        ends = np.cumsum(lengths)
        return np.stack([ends - lengths, ends], axis=-1)
