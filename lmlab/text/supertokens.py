"""Supertokens: BPE whose pre-tokenizer lets chunks of several words through, drawn at random, so that merges may cross
the spaces inside (of "Achieving Tokenizer Flexibility in Language Models through Heuristic Adaptation and Supertoken
Learning", 2025).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from lmlab.errors import UserError
from lmlab.text.bpe import BPETokenizer, learn, runs, valid_texts
from lmlab.text.merges import PRE_TOKEN


def chunks(documents: Iterable[bytes], chances: tuple[float, ...], seed: int = 0) -> Iterator[str]:
    """The documents' valid text, cut into chunks of 1, 2, .. words with these `chances`.

    A word is a pre-token of GPT-2: so no chunk ends where a usual pre-tokenizer would not cut.
    """
    rng = np.random.default_rng(seed)
    chances = np.array(chances) / np.sum(chances)
    for data in documents:
        for text in valid_texts(data):
            words = PRE_TOKEN.findall(text)
            ends = np.cumsum(rng.choice(len(chances), len(words), p=chances) + 1)
            ends = ends[: np.searchsorted(ends, len(words)) + 1].tolist()
            for begin, end in zip([0, *ends], ends):
                yield "".join(words[begin:end])


@dataclasses.dataclass(frozen=True)
class Supertokens:
    """Recipe: a byte-level BPE of `vocab_size` ids (BOS and EOS among them), whose merges are learned within chunks of
    1, 2, .. words with the chances `words`, drawn once, from the first `max_bytes` of the train split (None: all of it,
    as `BPE`).

    Text is then encoded with no pre-tokenizer at all, as what was cut by chance cannot be cut alike again. The paper's
    chances were not to be had; these are chosen here.
    """

    vocab_size: int
    bytes_per_token: float = 4.0  # nominal, for FLOPs per byte before anything is trained; never used in a score
    words: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)
    max_bytes: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.vocab_size < 258:
            raise UserError(f"A BPE vocabulary needs at least 258 ids (256 bytes, BOS and EOS), not {self.vocab_size}.")
        if min(self.words, default=-1) < 0 or sum(self.words) <= 0:
            raise UserError("The chances of a chunk's lengths are not negative, and not all 0.")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise UserError(f"Supertokens are learned from 1 byte or more, not {self.max_bytes}.")

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe, fit for a folder name."""
        chances, read = "-".join(f"{p:g}" for p in self.words), self.max_bytes or "all"
        return f"super{self.vocab_size}-{chances}-{read}-{self.seed}"

    def train(self, documents: Iterable[bytes]) -> "SupertokenTokenizer":
        """Learn the merges. UserError if the documents hold too few distinct pairs."""
        pieces = chunks(self._first(documents), self.words, self.seed)
        tokenizer = SupertokenTokenizer(learn(pieces, self.vocab_size, within_words=False), self.bytes_per_token)
        if tokenizer.vocab_size < self.vocab_size:
            raise UserError(
                f"The corpus is too small for {self.vocab_size} supertokens: it yields only {tokenizer.vocab_size}."
            )
        return tokenizer

    def _first(self, documents):
        if self.max_bytes is None:
            yield from documents
            return
        left = self.max_bytes
        for data in documents:
            yield data[:left]
            left -= len(data)
            if left <= 0:
                return

    def load(self, path: str | pathlib.Path) -> "SupertokenTokenizer":
        """Read what this recipe trained."""
        return SupertokenTokenizer.load(path, self.bytes_per_token, self.vocab_size)


@dataclasses.dataclass(frozen=True)
class SupertokenTokenizer(BPETokenizer):
    """A BPE over whole documents. Tokens may cross any place in a text, so that none is cut before it is encoded."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name: size and the first 48 bits of a hash of all tokens in order."""
        return f"super{self.vocab_size}-{self._digest}"

    def _parts(self, data: bytes) -> Iterator[str | int]:
        yield from runs(data)
