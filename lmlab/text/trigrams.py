"""Words as sparse patterns: the hashed trigrams of their characters (T-FREE, arXiv 2406.19223)."""

import dataclasses
import functools
import hashlib

import numpy as np

from lmlab.errors import UserError
from lmlab.text.whole_words import BYTES

# What stands around a word's characters: after a space, after none, at its end; around a byte, BOS and EOS.
SPACE, JOINED, END, BYTE, SPECIAL = "_", "\x00", "_", "\x01", "\x02"


@dataclasses.dataclass(frozen=True)
class Trigrams:
    """A word of n characters has n trigrams, one around each character; each trigram turns on `hashes` of `rows` rows, of
    which `lowered` depend on it in lower case, so that a word's ways to be written share them.

    The space before a word is not one of its characters, but moves its first trigram: what stands before a word without
    one is another mark. `longest`: characters of the longest word, which gives patterns a size.
    """

    rows: int
    hashes: int = 10
    lowered: int = 3
    longest: int = 16

    def __post_init__(self):
        if not 1 <= self.hashes <= 16 or not 0 <= self.lowered <= self.hashes or self.rows < 1 or self.longest < 1:
            raise UserError("Trigrams need rows, 1 to 16 hashes and no more lowered ones than that.")

    @property
    def active(self) -> int:
        """Rows that a pattern has at most."""
        return self.hashes * self.longest

    def trigram(self, trigram: str) -> list[int]:
        """The `hashes` rows of one trigram."""

        def digits(text):
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4 * self.hashes).digest()
            return np.frombuffer(digest, "<u4") % self.rows

        return [*digits("l" + trigram.lower())[: self.lowered].tolist(), *digits("e" + trigram)[self.lowered :].tolist()]

    def pattern(self, word: str) -> np.ndarray:
        """The rows of a word, rising, each once; int32."""
        joined = not (word.startswith(" ") and len(word) > 1)
        body = word if joined else word[1:]
        return self._rows((JOINED if joined else SPACE) + body[: self.longest] + END)

    def _rows(self, text):
        return np.unique([row for i in range(len(text) - 2) for row in self.trigram(text[i : i + 3])]).astype(np.int32)

    def table(self, tokenizer) -> np.ndarray:
        """The patterns of all ids of a `DictionaryTokenizer`, int32 [vocab_size, active], -1 behind each.

        Of a byte of a word that is not in the dictionary, of BOS and of EOS, the pattern is one trigram of its own.
        """
        if tokenizer.longest > self.longest:
            raise UserError(f"The dictionary has words of up to {tokenizer.longest} characters, patterns only {self.longest}.")
        patterns = [self._rows(BYTE + chr(b) + BYTE) for b in range(BYTES)]
        patterns += [self.pattern(word) for word in tokenizer.words]
        patterns += [self._rows(SPECIAL + mark + SPECIAL) for mark in "<>"]
        table = np.full((len(patterns), self.active), -1, np.int32)
        for row, pattern in zip(table, patterns, strict=True):
            row[: len(pattern)] = pattern
        return table


@functools.lru_cache(maxsize=4)
def table_of(trigrams: Trigrams, tokenizer) -> np.ndarray:
    """`trigrams.table(tokenizer)`, made once."""
    return trigrams.table(tokenizer)
