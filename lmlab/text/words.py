"""Bytes with a symbol behind every word, so that a model can say that a word is over before it has seen the next one."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lmlab.errors import UserError
from lmlab.text.bpe import BPE

BYTES = 256


@dataclasses.dataclass(frozen=True)
class SpaceWords:
    """A word ends behind every run of white space: the spaces join the word before them (HAT, arXiv 2501.10322)."""

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name."""
        return "space"

    def ends(self, text: str) -> list[int]:
        """Where the words of `text` end, in characters, rising; the last end is the text's."""
        return [match.end() for match in re.finditer(r"\S*\s+|\S+", text)]


@dataclasses.dataclass(frozen=True)
class Unsplit:
    """The whole text is one word: what cuts it is only the tokenizer's limit in bytes."""

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name."""
        return "unsplit"

    def ends(self, text: str) -> list[int]:
        """Where the words of `text` end, in characters."""
        return [len(text)] if text else []


@functools.cache
def _patterns():
    """(where a word may be cut, what a piece between two cuts is): Unicode's tables, loaded when first used."""
    import regex

    # \b with the flag w is UAX 29, but for a regional indicator without a partner and for combining characters that
    # open a line, which the library joins to a letter behind them.
    extend = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]"
    alone = rf"(?<=\p{{WB=Regional_Indicator}}{extend}*)(?!{extend}|\p{{WB=Regional_Indicator}})"
    opening = rf"(?<=(?:\A|[\p{{WB=CR}}\p{{WB=LF}}\p{{WB=Newline}}]){extend}+)(?!{extend})"
    cuts = rf"(?V1)(?w)\b|(?<=\p{{P}})|(?<=\p{{Ll}})(?=\p{{Lu}})|{alone}|{opening}"
    return regex.compile(cuts), regex.compile(r"( )|(\s+)|(\p{P})")


WORD, SPACE, BLANK, PUNCTUATION = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True)
class UnicodeWords:
    """The rule that HAT's authors released (hat-splitter 0.1.10): UAX 29's words, cut behind every punctuation character
    and before the capitals of camelCase; then one space joins the word behind it, and punctuation what is before it.

    What may differ are code points newer than the Unicode tables of either, and stray parts of emoji.
    """

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name; with the version of the tables, which moves words."""
        import regex

        return f"unicode-{regex.__version__}"

    def ends(self, text: str) -> list[int]:
        """Where the words of `text` end, in characters."""
        cuts, kinds = _patterns()
        ends, at, before = [], 0, None
        for piece in cuts.split(text):
            if not piece:
                continue
            match = kinds.fullmatch(piece)
            kind = match.lastindex if match else WORD
            at += len(piece)
            joins = before == SPACE if kind == WORD else kind == PUNCTUATION and before in (WORD, SPACE, PUNCTUATION)
            if joins:
                ends[-1] = at
            else:
                ends.append(at)
            before = kind
        return ends


@dataclasses.dataclass(frozen=True)
class Words:
    """Token id = byte value; behind every word `symbols` ids from 256 on, which stand for no byte: [W].

    A word has at most `max_bytes` bytes; a longer one is cut, between two characters if it can be. HAT writes [W] as a
    byte value that UTF-8 never uses; here it has an id of its own, so that every byte string round-trips. BOS (254) and
    EOS (255) are those of `ByteTokenizer`. `bytes_per_word` is only what FLOPs and rows are planned with.
    """

    splitter: Any = SpaceWords()
    max_bytes: int = 63
    bytes_per_word: float = 5.0
    symbols: int = 1

    def __post_init__(self):
        if self.max_bytes < 1 or self.symbols < 1 or not self.bytes_per_word > 0:
            raise UserError("Words need max_bytes and symbols of at least 1 and bytes_per_word above 0.")

    @property
    def vocab_size(self) -> int:
        return BYTES + self.symbols

    @property
    def bos(self) -> int:
        return 254

    @property
    def eos(self) -> int:
        return 255

    @property
    def bytes_per_token(self) -> float:
        """Source bytes per token, symbols counted, as planned."""
        return self.bytes_per_word / (self.bytes_per_word + self.symbols)

    @property
    def fingerprint(self) -> str:
        """Short name of the tokenizer, fit for a folder name."""
        return f"words-{self.splitter.fingerprint}-{self.max_bytes}-{self.symbols}"

    def train(self, documents: Iterable[bytes]) -> "Words":
        """Nothing to learn: the recipe is the tokenizer."""
        return self

    def ends(self, data: bytes) -> np.ndarray:
        """Where the words end, in bytes: int64 [words], rising, the last is len(data)."""
        text = data.decode("utf-8", "surrogateescape")  # a byte that is no UTF-8 is a character of its own
        ends = np.array(self.splitter.ends(text), np.int64)
        if len(text) < len(data):
            point = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
            stray = (point >= 0xDC80) & (point < 0xDD00)
            size = 1 + (point >= 0x80) + (point >= 0x800) + (point >= 0x10000) - 2 * stray
            ends = np.cumsum(size)[ends - 1] if len(ends) else ends
        starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
        long = np.flatnonzero(ends - starts > self.max_bytes)
        further = [cut for i in long for cut in self._cuts(data, int(starts[i]), int(ends[i]))]
        return np.sort(np.concatenate([ends, np.array(further, np.int64)])) if further else ends

    def _cuts(self, data, start, end):
        """Places inside a word that is too long."""
        while end - start > self.max_bytes:
            last = start + self.max_bytes
            start = next((i for i in range(last, start, -1) if data[i] & 0xC0 != 0x80), last)
            yield start

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32, without BOS and EOS."""
        ids, ends = np.frombuffer(data, np.uint8).astype(np.int32), self.ends(data)
        symbols = BYTES + np.arange(self.symbols, dtype=np.int32)
        return np.insert(ids, np.repeat(ends, self.symbols), np.tile(symbols, len(ends)))

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """`encode` of every document."""
        return [self.encode(data) for data in documents]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> bytes:
        """Ids to bytes; with `skip_special`, ids 254 and 255 are taken as BOS and EOS and dropped."""
        ids = np.asarray(ids)
        ids = ids[ids < BYTES]
        if skip_special:
            ids = ids[(ids != self.bos) & (ids != self.eos)]
        return ids.astype(np.uint8).tobytes()

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; b"" for a symbol."""
        return bytes([token]) if token < BYTES else b""

    def token_lengths(self) -> np.ndarray:
        """Source bytes per id, int32 [vocab_size]: 1, and 0 for symbols."""
        return (np.arange(self.vocab_size) < BYTES).astype(np.int32)

    def byte_spans(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Start and end of every id in `decode(ids)`, int64 [n, 2]."""
        lengths = self.token_lengths()[np.asarray(ids, np.int64)].astype(np.int64)
        ends = np.cumsum(lengths)
        return np.stack([ends - lengths, ends], axis=-1)

    def save(self, path: str | pathlib.Path) -> None:
        """Write nothing: there is nothing to keep."""

    def load(self, path: str | pathlib.Path) -> "Words":
        """Read nothing."""
        return self


@dataclasses.dataclass(frozen=True)
class WordsOfSubwords(Words):
    """`Words` that also knows the subwords of every word: a model reads bytes and is asked for subwords (Byte2Word)."""

    subwords: Any = BPE(1024)  # the recipe; once trained, the tokenizer

    @property
    def fingerprint(self) -> str:
        """Short name of the tokenizer, fit for a folder name."""
        return f"{super().fingerprint}-{self.subwords.fingerprint}"

    def train(self, documents: Iterable[bytes]) -> "WordsOfSubwords":
        """With subwords learnt from the documents."""
        return dataclasses.replace(self, subwords=self.subwords.train(documents))

    def save(self, path: str | pathlib.Path) -> None:
        """Write the subwords."""
        self.subwords.save(path)

    def load(self, path: str | pathlib.Path) -> "WordsOfSubwords":
        """With the subwords that `save` wrote."""
        return dataclasses.replace(self, subwords=self.subwords.load(path))
