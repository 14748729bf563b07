"""Equal-info windows: text cut where a small language model has spent a fixed number of bits (Lester et al. 2024,
arXiv 2404.03626).

In each window the arithmetic coder and the model that it codes by start anew, so that a window is a function of its bytes
alone: with one token per window, the codes are a vocabulary of byte strings, and coding is a walk from prefix to prefix.
The intervals are integers. An interval of n codes gives its first to the string that leads to it, for the window that ends
there, and the n - 1 others to the bytes that may follow, in proportion to their probabilities; bytes that get none end the
window. So every code is one string's, a window ends without padding at the end of a document too, and what is coded comes
back exactly, whatever machine runs the model: the strings are kept, not the model.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lmlab.errors import UserError
from lmlab.text.ngrams import ByteCounts
from lmlab.text.tokens import Tokens

BATCH = 4096  # strings whose next bytes are asked for at once


def shares(probabilities: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Integers [n, V] in proportion to `probabilities` [n, V] that sum to `sizes` [n]: what is left after rounding down goes
    to the largest remainders, of equal ones to the first."""
    exact = probabilities / probabilities.sum(1, keepdims=True) * sizes[:, None]
    given = np.floor(exact).astype(np.int64)
    left = sizes - given.sum(1)
    order = np.argsort(given - exact, axis=1, kind="stable")
    more = np.arange(exact.shape[1])[None] < left[:, None]
    given[np.arange(len(given))[:, None], order] += more
    return given


def strings_of(next_bytes: Callable[[Sequence[bytes]], np.ndarray], bits: int) -> list[bytes]:
    """The string of every code of `bits` bits. `next_bytes`: n strings -> probabilities of their next byte, [n, 256]."""
    if not 8 <= bits <= 20:
        raise UserError(f"A window of equal information has 8 to 20 bits, not {bits}.")
    codes = [b""] * 2**bits
    # Of every byte there is a code at the root, which itself needs none.
    first = 1 + shares(next_bytes([b""]), np.array([2**bits - 256]))[0]
    starts = np.cumsum(first) - first
    waiting = [(bytes([b]), int(starts[b]), int(first[b])) for b in range(256)]
    while waiting:
        for string, low, _ in waiting:
            codes[low] = string
        further, waiting = [node for node in waiting if node[2] > 1], []
        for begin in range(0, len(further), BATCH):
            group = further[begin : begin + BATCH]
            given = shares(next_bytes([string for string, _, _ in group]), np.array([size - 1 for _, _, size in group]))
            lows = np.array([low + 1 for _, low, _ in group])[:, None] + np.cumsum(given, axis=1) - given
            for i, b in zip(*np.nonzero(given)):
                waiting.append((group[i][0] + bytes([b]), int(lows[i, b]), int(given[i, b])))
    return codes


@dataclasses.dataclass(frozen=True)
class EqualInfo:
    """Recipe: windows of `bits` bits, coded by counts of n-grams up to `order` of the train split. 2^bits + 2 ids.

    A context never reaches out of its window, which has few bytes: larger models know little more there.
    """

    bits: int
    order: int = 5
    bytes_per_token: float = 2.5  # nominal, for FLOPs per byte before anything is trained; never used in a score

    def __post_init__(self):
        if not 8 <= self.bits <= 20 or not 0 <= self.order <= 8:
            raise UserError("Equal-info windows have 8 to 20 bits, coded by n-grams of order 0 to 8.")

    @property
    def vocab_size(self) -> int:
        return 2**self.bits + 2

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe, fit for a folder name."""
        return f"equal-info{self.bits}-{self.order}"

    def train(self, documents: Iterable[bytes]) -> "EqualInfoTokenizer":
        """Count, and code."""
        return self.by(ByteCounts.of(documents, self.order).next)

    def by(self, next_bytes: Callable[[Sequence[bytes]], np.ndarray]) -> "EqualInfoTokenizer":
        """Windows coded by any model of the next byte; see `strings_of`."""
        return EqualInfoTokenizer(tuple(strings_of(next_bytes, self.bits)), self.bytes_per_token)

    def load(self, path: str | pathlib.Path) -> "EqualInfoTokenizer":
        """Read what this recipe made."""
        try:
            found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            strings = tuple(string.encode("latin-1") for string in found)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no readable file of equal-info windows ({error}).") from error
        if len(strings) != 2**self.bits:
            raise UserError(f"{path} has {len(strings)} windows, not the {2**self.bits} of {self.bits} bits.")
        return EqualInfoTokenizer(strings, self.bytes_per_token)


@dataclasses.dataclass(frozen=True)
class EqualInfoTokenizer(Tokens):
    """Ids: the codes of windows, BOS, EOS.

    UserError for strings that are not each other's prefixes down to the single bytes.
    """

    strings: tuple[bytes, ...] = dataclasses.field(repr=False)
    bytes_per_token: float = 2.5

    def __post_init__(self):
        known = self._code_of
        whole = len(known) == len(self.strings) and all(bytes([b]) in known for b in range(256))
        if not whole or not all(len(s) == 1 or s[:-1] in known for s in self.strings):
            raise UserError("These are no equal-info windows: a string or a prefix of one has no code of its own.")

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        return [*self.strings, b"", b""]

    @functools.cached_property
    def _code_of(self) -> dict[bytes, int]:
        return {string: code for code, string in enumerate(self.strings)}

    @property
    def bits(self) -> int:
        """Bits of a window."""
        return len(self.strings).bit_length() - 1

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name: bits and the first 48 bits of a hash of all strings in order."""
        return f"equal-info{self.bits}-{self._digest}"

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32 [n], without BOS and EOS: a window goes on as long as its string has a code."""
        code_of, ids, start, end = self._code_of, [], 0, 1
        while start < len(data):
            code = None
            while end <= len(data) and (longer := code_of.get(data[start:end])) is not None:
                code, end = longer, end + 1
            ids.append(code)
            start, end = end - 1, end
        return np.array(ids, np.int32)

    def save(self, path: str | pathlib.Path) -> None:
        """Write the strings."""
        pathlib.Path(path).write_text(json.dumps([s.decode("latin-1") for s in self.strings]), encoding="utf-8")
