"""Tokenizers over the few symbols of a toy text: dictionaries learned by byte pairs or by LZW, encoded by merges or
greedily.

Text is not cut into words. Only the symbols that occur in the training text can be encoded: the one tokenizer here that
does not take every byte string.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable

import numpy as np
import tokenizers

from lmlab.errors import UserError
from lmlab.text.tokens import Tokens

ENCODINGS = ("merges", "greedy")


@dataclasses.dataclass(frozen=True)
class Dictionary:
    """Recipe: the symbols and further tokens, `size` in all. `learned` by "pairs" (BPE) or by "lzw"; encoded by BPE's
    "merges" or "greedy": always the longest token that fits (maximum prefix encoding). `size` 0: the symbols alone."""

    size: int = 10
    learned: str = "pairs"
    encoded: str = "merges"
    bytes_per_token: float = 2.0  # nominal
    train_bytes: int = 100_000  # that the dictionary is learned from
    symbols: int = 2  # at most

    def __post_init__(self):
        if self.learned not in ("pairs", "lzw") or self.encoded not in ENCODINGS:
            raise UserError('A dictionary is learned by "pairs" or "lzw" and encoded by "merges" or "greedy".')
        if self.learned == "lzw" and self.encoded == "merges":
            raise UserError("LZW learns no merges: encode greedily.")

    @property
    def vocab_size(self) -> int:
        """Ids, BOS and EOS among them."""
        return max(self.size, self.symbols) + 2

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name."""
        return f"dictionary-{self.size}-{self.learned}-{self.encoded}-{self.train_bytes}-{self.symbols}"

    def train(self, documents: Iterable[bytes]) -> "DictionaryTokenizer":
        """Learn the dictionary. UserError if the text has more symbols than `symbols`, or too few pairs."""
        taken, total = [], 0
        for document in documents:
            if total >= self.train_bytes:
                break
            taken.append(document[: self.train_bytes - total])
            total += len(taken[-1])
        alphabet = sorted(set(b"".join(taken)))
        if len(alphabet) > self.symbols:
            raise UserError(f"The text has {len(alphabet)} different bytes; this dictionary is of {self.symbols} symbols.")
        tokens, merges = [bytes([b]) for b in alphabet], ()
        if self.size > len(tokens):
            tokens, merges = (_lzw if self.learned == "lzw" else _pairs)(taken, tokens, self.size)
        if len(tokens) < self.size:
            raise UserError(f"The corpus is too small for a dictionary of {self.size}: it yields only {len(tokens)}.")
        return DictionaryTokenizer(tuple(tokens), tuple(merges) if self.encoded == "merges" else None, self.bytes_per_token)

    def load(self, path: str | pathlib.Path) -> "DictionaryTokenizer":
        """Read what `save` wrote."""
        content = json.loads(pathlib.Path(path).read_text())
        tokens = tuple(bytes.fromhex(token) for token in content["tokens"])
        merges = content["merges"]
        merges = merges and tuple((bytes.fromhex(a), bytes.fromhex(b)) for a, b in merges)
        return DictionaryTokenizer(tokens, () if merges == [] else merges, self.bytes_per_token)


def _lzw(documents, tokens, size):
    """Whenever the longest known string ends, it and the symbol behind it become known."""
    known, order = set(tokens), list(tokens)
    for document in documents:
        start = 0
        while start < len(document) and len(order) < size:
            end = start + 1
            while end < len(document) and document[start : end + 1] in known:
                end += 1
            if end < len(document):
                known.add(document[start : end + 1])
                order.append(document[start : end + 1])
            start = end
    return order, ()


def _pairs(documents, tokens, size):
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False)
    # Documents as words of the library: cut, as its trainer is slow on long ones.
    pieces = (d[i : i + 1000].decode("latin-1") for d in documents for i in range(0, len(d), 1000))
    library.train_from_iterator(pieces, trainer)
    merges = [tuple(part.encode("latin-1") for part in pair) for pair in json.loads(library.to_str())["model"]["merges"]]
    return [*tokens, *(a + b for a, b in merges)], merges


@dataclasses.dataclass(frozen=True)
class DictionaryTokenizer(Tokens):
    """Ids are places in `tokens`, then BOS and EOS. `merges` None: greedy."""

    tokens: tuple[bytes, ...]
    merges: tuple[tuple[bytes, bytes], ...] | None = None
    bytes_per_token: float = 2.0

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name."""
        return f"dictionary{self.vocab_size}-{hashlib.sha256(repr((self.tokens, self.merges)).encode()).hexdigest()[:12]}"

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        return [*self.tokens, b"", b""]

    @functools.cached_property
    def _ids(self):
        return {token: i for i, token in enumerate(self.tokens)}

    @functools.cached_property
    def _longest(self):
        return re.compile(b"|".join(re.escape(t) for t in sorted(self.tokens, key=len, reverse=True)))

    @functools.cached_property
    def _library(self):
        text = {token.decode("latin-1"): i for token, i in self._ids.items()}
        merges = [tuple(part.decode("latin-1") for part in pair) for pair in self.merges]
        return tokenizers.Tokenizer(tokenizers.models.BPE(text, merges))

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32 [n], without BOS and EOS. UserError for a byte that is no symbol."""
        if strange := set(data) - {t[0] for t in self.tokens}:
            raise UserError(f"The byte {min(strange)} is no symbol of this dictionary.")
        if self.merges is None:
            return np.array([self._ids[token] for token in self._longest.findall(data)], np.int32)
        return np.array(self._library.encode(data.decode("latin-1"), add_special_tokens=False).ids, np.int32)

    def save(self, path: str | pathlib.Path) -> None:
        """Write tokens and merges."""
        merges = self.merges if self.merges is None else [(a.hex(), b.hex()) for a, b in self.merges]
        pathlib.Path(path).write_text(json.dumps({"tokens": [t.hex() for t in self.tokens], "merges": merges}))
