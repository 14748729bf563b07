"""Tokenizers that take the longest token at every place: RWKV's "World" vocabularies, read from their files.

A line of such a file is an id, the token as a Python literal (text or bytes), and its number of bytes. Text is not cut into
words first, and there are no merges: which tokens a text has is said by the list alone.
"""

import ast
import dataclasses
import functools
import pathlib
import re

import numpy as np

from lmlab.errors import UserError
from lmlab.text.tokens import Tokens

LINE = re.compile(rb"""\d+ b?['"].*['"] \d+\r?\n""")


def is_vocabulary(path: pathlib.Path) -> bool:
    """Whether the file begins as such a list does; False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return bool(LINE.fullmatch(file.readline(10_000)))
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class LongestMatchTokenizer(Tokens):
    """Ids are the file's. Id 0, which such files leave out, is both BOS and EOS; ids that are left out besides stand for
    no bytes."""

    definition: str = dataclasses.field(repr=False)
    bytes_per_token: float = 4.0

    @property
    def bos(self) -> int:
        return 0

    @property
    def eos(self) -> int:
        return 0

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        found = {}
        for number, line in enumerate(self.definition.strip("\n").split("\n"), 1):
            try:
                token, rest = line.split(" ", 1)
                literal, size = rest.rsplit(" ", 1)
                data = ast.literal_eval(literal)
                data = data.encode() if isinstance(data, str) else memoryview(data).tobytes()
                if not 0 < len(data) == int(size) or int(token) < 1 or int(token) in found:
                    raise ValueError("an id twice, or another number of bytes")
            except (ValueError, SyntaxError, TypeError) as error:
                raise UserError(f"Line {number} of the list of tokens is no id, token and size ({error}).") from error
            found[int(token)] = data
        if max(found) > 4 * len(found):
            raise UserError(f"The list of {len(found)} tokens has an id of {max(found)}.")
        return [found.get(token, b"") for token in range(max(found) + 1)]

    @functools.cached_property
    def _id_of(self) -> dict[bytes, int]:
        return {data: token for token, data in enumerate(self._token_bytes) if data}

    @functools.cached_property
    def _sizes(self) -> dict[bytes, list[int]]:
        """Of the tokens that begin with one or two bytes how long they are, longest first."""
        sizes = {}
        for data in self._id_of:
            sizes.setdefault(data[:2], set()).add(len(data))
        return {begin: sorted(found | {1}, reverse=True) for begin, found in sizes.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name: size and the first 48 bits of a hash of all tokens in order."""
        return f"longest{self.vocab_size}-{self._digest}"

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32 [n], without BOS and EOS."""
        id_of, sizes, ids, at = self._id_of, self._sizes, [], 0
        while at < len(data):
            for size in sizes.get(data[at : at + 2], (1,)):
                if (token := id_of.get(data[at : at + size])) is not None:
                    break
            ids.append(token)
            at += len(self._token_bytes[token])
        return np.array(ids, np.int32)

    def save(self, path: str | pathlib.Path) -> None:
        """Write the list."""
        pathlib.Path(path).write_text(self.definition, encoding="utf-8")

    @classmethod
    def load(cls, path: str | pathlib.Path, bytes_per_token: float = 4.0) -> "LongestMatchTokenizer":
        """Read a published list or what `save` wrote.

        Raises:
            UserError: a line is wrong, or a single byte is no token.
        """
        try:
            tokenizer = cls(pathlib.Path(path).read_text(encoding="utf-8"), bytes_per_token)
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot read {path}: {error}.") from error
        if any(bytes([byte]) not in tokenizer._id_of for byte in range(256)):
            raise UserError(f"{path} does not round-trip bytes: it has no token for some single bytes.")
        return tokenizer
