"""Less is Better: a vocabulary learned online, by adding what shortens a text and forgetting what does not (Yang 2024,
arXiv 2403.00417).

The lexicon is an ordered list over single bytes. Sentence by sentence, text is cut greedily into the longest units known. The
memorizer joins random neighbours, and a pair that it has met before becomes a unit; of the units in use some are tried:
one without which the sentence would take more tokens moves up, one without which it would take as few or fewer moves down;
and the forgetter drops what is at the end, and lets fade what has brought the others up. White space is a byte as any other, so that parts of words, words and
phrases compete for one vocabulary.
"""

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
SENTENCE = re.compile(rb"[^\n]{0,300}\n+|[^\n]{1,300}")
LEXICON = 1.25  # units that are kept while learning, over those that are wanted: the last ones are on trial


def cut(data: bytes, units, longest: int, without: bytes = b"") -> list[bytes]:
    """`data` as the longest of `units` from left to right, or single bytes; `without` is left out of them."""
    parts, at = [], 0
    while at < len(data):
        part = data[at : at + longest]
        while len(part) > 1 and (part not in units or part == without):
            part = part[:-1]
        parts.append(part)
        at += len(part)
    return parts


def pattern_of(strings: Iterable[bytes]) -> bytes:
    """A regular expression that matches the longest of `strings` at a place, made of their prefixes."""
    tree = {}
    for string in strings:
        node = tree
        for byte in string:
            node = node.setdefault(byte, {})
        node[None] = True

    def written(node):
        branches = [re.escape(bytes([byte])) + written(child) for byte, child in node.items() if byte is not None]
        if not branches:
            return b""
        return b"(?:" + b"|".join(branches) + b")" + (b"?" if None in node else b"")

    return written(tree)


def learn(documents: Iterable[bytes], size: int, longest: int, max_bytes: int, seed: int = 0) -> list[bytes]:
    """At most `size` units of two bytes or more, the first in order first, from the first `max_bytes` of the documents."""
    rng, place, met, seen = np.random.default_rng(seed), {}, collections.Counter(), 0
    for data in documents:
        for sentence in SENTENCE.findall(data[: max(0, max_bytes - seen)]):
            parts = cut(sentence, place, longest)
            used = [part for part in parts if len(part) > 1]
            for unit in [used[i] for i in rng.integers(len(used), size=2)] if used else ():
                saved = len(cut(sentence, place, longest, unit)) - len(parts)
                place[unit] += 1 if saved > 0 else -1
            if len(parts) > 1:
                for i in rng.integers(len(parts) - 1, size=1 + len(parts) // 4):
                    pair = parts[i] + parts[i + 1]
                    if len(pair) <= longest and pair not in place:
                        met[pair] += 1
                        if met[pair] > 1:
                            place[pair] = 0
                            del met[pair]
            if len(place) > LEXICON * size + 1:
                kept = sorted(place, key=lambda unit: -place[unit])[:size]
                place = {unit: int(0.9 * place[unit]) for unit in kept}  # what is no longer used sinks
            if len(met) > 100 * size + 1000:
                met.clear()
        seen += len(data)
        if seen >= max_bytes:
            break
    return sorted(place, key=lambda unit: (-place[unit], unit))[:size]


@dataclasses.dataclass(frozen=True)
class LiB:
    """Recipe: `vocab_size` ids: 256 bytes, units learned from the first `max_bytes` of the train split, BOS and EOS."""

    vocab_size: int
    bytes_per_token: float = 3.0  # nominal, for FLOPs per byte before anything is trained; never used in a score
    longest: int = 16  # bytes of a unit
    max_bytes: int = 2_000_000

    def __post_init__(self):
        if self.vocab_size < BYTES + 2 or self.longest < 2:
            raise UserError("A lexicon has at least 258 ids (256 bytes, BOS and EOS) and units of two bytes.")

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe, fit for a folder name."""
        return f"lib{self.vocab_size}-{self.longest}-{self.max_bytes}"

    def train(self, documents: Iterable[bytes]) -> "LiBTokenizer":
        """Learn the units; UserError if there are too few."""
        units = learn(documents, self.vocab_size - BYTES - 2, self.longest, self.max_bytes)
        if len(units) < self.vocab_size - BYTES - 2:
            raise UserError(
                f"The corpus is too small for a lexicon of {self.vocab_size}: it yields only {len(units) + BYTES + 2}."
            )
        return LiBTokenizer(tuple(units), self.bytes_per_token)

    def load(self, path: str | pathlib.Path) -> "LiBTokenizer":
        """Read what this recipe learned."""
        try:
            units = tuple(unit.encode("latin-1") for unit in json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no readable lexicon ({error}).") from error
        if len(units) != self.vocab_size - BYTES - 2:
            raise UserError(f"{path} does not hold a lexicon of {self.vocab_size} ids.")
        return LiBTokenizer(units, self.bytes_per_token)


@dataclasses.dataclass(frozen=True)
class LiBTokenizer(Tokens):
    """Ids: the bytes, then `units` in order, BOS, EOS."""

    units: tuple[bytes, ...] = dataclasses.field(repr=False)
    bytes_per_token: float = 3.0

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        return [bytes([b]) for b in range(BYTES)] + [*self.units, b"", b""]

    @functools.cached_property
    def _id_of(self) -> dict[bytes, int]:
        return {token: i for i, token in enumerate(self._token_bytes) if token}

    @functools.cached_property
    def _pattern(self) -> re.Pattern:
        return re.compile(pattern_of(self._id_of), re.DOTALL)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name: size and the first 48 bits of a hash of all units in order."""
        return f"lib{self.vocab_size}-{self._digest}"

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32 [n], without BOS and EOS."""
        id_of = self._id_of
        return np.array([id_of[part] for part in self._pattern.findall(data)], np.int32)

    def save(self, path: str | pathlib.Path) -> None:
        """Write the units."""
        pathlib.Path(path).write_text(json.dumps([unit.decode("latin-1") for unit in self.units]), encoding="utf-8")
