"""Whole words as tokens: the words of a dictionary, and bytes for all that is not in it."""

import collections
import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from lmlab.errors import UserError
from lmlab.text.tokens import Tokens

BYTES = 256
# Letters, or one digit, or one other character, with the space before it; white space besides stands by itself.
WORD = re.compile(r" ?(?:[^\W\d_]+|[^\s])|\s+(?!\S)|\s")


def words(data: bytes, longest: int) -> list[str]:
    """The words of a text in order, which together are the text; longer ones than `longest` characters are cut.

    An invalid byte is a character, as `surrogateescape` writes it.
    """
    found = WORD.findall(data.decode("utf-8", "surrogateescape"))
    if all(len(word) <= longest for word in found):
        return found
    return [word[i : i + longest] for word in found for i in range(0, len(word), longest)]


def to_bytes(word: str) -> bytes:
    """The bytes of a word."""
    return word.encode("utf-8", "surrogateescape")


@dataclasses.dataclass(frozen=True)
class WordDictionary:
    """Recipe: `vocab_size` ids: 256 bytes, the most frequent words of the train split, BOS and EOS.

    A word that is not among them is written as its bytes, so that every byte string round-trips.
    """

    vocab_size: int
    bytes_per_token: float = 3.0  # nominal, for FLOPs per byte before anything is trained; never used in a score
    longest: int = 16  # characters of a word

    def __post_init__(self):
        if self.vocab_size < BYTES + 2 or self.longest < 2:
            raise UserError("A dictionary has at least 258 ids (256 bytes, BOS and EOS) and words of two characters.")

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe, fit for a folder name."""
        return f"dictionary{self.vocab_size}-{self.longest}"

    def train(self, documents: Iterable[bytes]) -> "WordDictionaryTokenizer":
        """Count the words; UserError if there are too few."""
        found = self.of_at_most(documents)
        if found.vocab_size < self.vocab_size:
            raise UserError(
                f"The corpus is too small for a dictionary of {self.vocab_size}: it yields only {found.vocab_size}."
            )
        return found

    def of_at_most(self, documents: Iterable[bytes]) -> "WordDictionaryTokenizer":
        """Count the words; fewer ids where there are fewer."""
        counts = collections.Counter()
        for data in documents:
            counts.update(words(data, self.longest))
        # A word of one byte is that byte.
        ranked = sorted((-count, word) for word, count in counts.items() if len(to_bytes(word)) > 1)
        kept = tuple(word for _, word in ranked[: self.vocab_size - BYTES - 2])
        return WordDictionaryTokenizer(kept, self.longest, self.bytes_per_token)

    def load(self, path: str | pathlib.Path) -> "WordDictionaryTokenizer":
        """Read what this recipe counted."""
        try:
            found = tuple(json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a readable dictionary ({error}).") from error
        if len(found) != self.vocab_size - BYTES - 2 or not all(isinstance(word, str) for word in found):
            raise UserError(f"{path} does not hold a dictionary of {self.vocab_size} ids.")
        return WordDictionaryTokenizer(found, self.longest, self.bytes_per_token)


@dataclasses.dataclass(frozen=True)
class WordDictionaryTokenizer(Tokens):
    """Ids: the bytes, then `words`, BOS, EOS."""

    words: tuple[str, ...] = dataclasses.field(repr=False)
    longest: int = 16
    bytes_per_token: float = 3.0

    @functools.cached_property
    def _id_of(self) -> dict[str, int]:
        return {word: BYTES + i for i, word in enumerate(self.words)}

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        return [bytes([b]) for b in range(BYTES)] + [to_bytes(word) for word in self.words] + [b"", b""]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name: size and the first 48 bits of a hash of all words in order."""
        return f"dictionary{self.vocab_size}-{self.longest}-{self._digest}"

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32 [n], without BOS and EOS."""
        ids, id_of = [], self._id_of
        for word in words(data, self.longest):
            known = id_of.get(word)
            ids += to_bytes(word) if known is None else (known,)
        return np.array(ids, np.int32)

    def save(self, path: str | pathlib.Path) -> None:
        """Write the words."""
        pathlib.Path(path).write_text(json.dumps(self.words), encoding="utf-8")
