"""Byte-level byte-pair encoding (Sennrich et al. 2016; GPT-2, Radford et al. 2019), exact on any byte string.

The `tokenizers` library works on Unicode text. Documents are cut into their valid UTF-8 text, which goes through the
library with GPT-2's byte-level pre-tokenizer (so a letter of several bytes is never cut from its word by the
pre-tokenizer), and their invalid bytes, each of which is encoded as the token of that single byte.
"""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tokenizers

from lmlab.errors import UserError
from lmlab.text.tokens import Tokens

_PIECE = 1 << 20  # characters that one call of the library sees at most, if the text allows a cut
_ENCODE_GROUP = 1 << 23  # bytes encoded at once: the library's results take ~30 times the memory of the text
_ESCAPED = re.compile("[\udc80-\udcff]")  # how `surrogateescape` marks an invalid byte
# GPT-2's pre-tokenizer always cuts between a non-space and a space and looks only ahead, so that encoding the two
# sides apart gives the same tokens as encoding them together.
_CUT = re.compile(r"(?<=\S)(?=[ \n])")


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in the library's byte-level vocabularies."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    code_points = dict(zip(printable, printable)) | {byte: 256 + rank for rank, byte in enumerate(others)}
    return [chr(code_points[byte]) for byte in range(256)]


def runs(data: bytes) -> Iterator[str | int]:
    """The document in order: valid text (`str`, not empty) and invalid bytes (`int`)."""
    text = data.decode("utf-8", "surrogateescape")
    end = 0
    for match in _ESCAPED.finditer(text):
        if match.start() > end:
            yield text[end : match.start()]
        yield ord(match.group()) - 0xDC00
        end = match.end()
    if end < len(text):
        yield text[end:]


def valid_texts(data: bytes) -> Iterator[str]:
    """The document's valid text, in pieces that a trainer may see one by one."""
    return (piece for run in runs(data) if isinstance(run, str) for piece in _pieces(run))


def _pieces(text: str) -> Iterator[str]:
    """The text cut into pieces of about `_PIECE` characters where a cut cannot change the tokens."""
    start = 0
    while len(text) - start > _PIECE and (cut := _CUT.search(text, start + _PIECE)):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


@dataclasses.dataclass(frozen=True)
class BPE:
    """Recipe: a byte-level BPE of `vocab_size` ids (BOS and EOS among them), trained on the corpus' train split."""

    vocab_size: int
    bytes_per_token: float = 4.0  # nominal, for FLOPs per byte before anything is trained; never used in a score

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe, fit for a folder name."""
        return f"bpe{self.vocab_size}"

    def train(self, documents: Iterable[bytes]) -> "BPETokenizer":
        """Learn the merges; see `train_bpe`."""
        return train_bpe(documents, self.vocab_size, self.bytes_per_token)

    def load(self, path: str | pathlib.Path) -> "BPETokenizer":
        """Read what this recipe trained; see `BPETokenizer.load`."""
        return BPETokenizer.load(path, self.bytes_per_token, self.vocab_size)


@dataclasses.dataclass(frozen=True)
class BPETokenizer(Tokens):
    """A trained byte-level BPE.

    `definition` is the library's own JSON, without special tokens: text such as "<bos>" inside a document is text.
    The last two ids are ours: `bos` ("<bos>") and `eos` ("<eos>").
    """

    definition: str = dataclasses.field(repr=False)
    bytes_per_token: float = 4.0  # the recipe's

    @functools.cached_property
    def _library(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.definition)

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        vocabulary = sorted(self._library.get_vocab().items(), key=lambda item: item[1])
        return [bytes(byte_of[character] for character in token) for token, _ in vocabulary] + [b"", b""]

    @functools.cached_property
    def byte_ids(self) -> list[int]:
        """The token of each single byte [256]."""
        return [self._library.token_to_id(character) for character in byte_alphabet()]

    @functools.cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merge rules as bytes, in the order in which they were learned."""
        byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        return [(bytes(map(byte_of.get, left)), bytes(map(byte_of.get, right))) for left, right in self._rules()]

    def _rules(self) -> list[list[str]]:
        """The merge rules as the library spells them. UserError for a tokenizer that is no BPE."""
        model = json.loads(self.definition)["model"]
        if "merges" not in model:
            raise UserError(f"A {model.get('type', 'tokenizer')} tokenizer has no merges; this needs a BPE.")
        # Both forms are in use.
        return [rule.split(" ") if isinstance(rule, str) else rule for rule in model["merges"]]

    def truncated(self, vocab_size: int) -> "BPETokenizer":
        """The tokenizer that training on the same text to a smaller vocabulary gives: the first merges alone."""
        if not 258 <= vocab_size <= self.vocab_size:
            raise UserError(f"A BPE of {self.vocab_size} ids can be cut to 258 ids or more, not to {vocab_size}.")
        content = json.loads(self.definition)
        model, drop = content["model"], self.vocab_size - vocab_size
        model["merges"] = model["merges"][: len(model["merges"]) - drop]
        model["vocab"] = {token: i for token, i in model["vocab"].items() if i < vocab_size - 2}
        return dataclasses.replace(self, definition=json.dumps(content))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name: size and the first 48 bits of a hash of all tokens in order."""
        return f"bpe{self.vocab_size}-{self._digest}"

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32 [n], without BOS and EOS."""
        return self.encode_batch([data])[0]

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """`encode` of every document, on all cores."""
        encoded, group, size = [], [], 0
        for data in documents:
            group.append(data)
            size += len(data)
            if size > _ENCODE_GROUP:
                encoded += self._encode_group(group)
                group, size = [], 0
        return encoded + self._encode_group(group)

    def _parts(self, data: bytes) -> Iterator[str | int]:
        """The document in order: text that the library encodes, and bytes that stand for themselves."""
        for run in runs(data):
            yield from (run,) if isinstance(run, int) else _pieces(run)

    def _encode_group(self, documents: list[bytes]) -> list[np.ndarray]:
        texts, plans = [], []  # a plan: per part of the document, an index into `texts` or the ids [1] of a byte
        for data in documents:
            plan = []
            for part in self._parts(data):
                if isinstance(part, int):
                    plan.append(np.array([self.byte_ids[part]], np.int32))
                    continue
                plan.append(len(texts))
                texts.append(part)
            plans.append(plan)
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
        none = np.zeros(0, np.int32)
        return [
            np.concatenate([none, *(ids[part] if isinstance(part, int) else part for part in plan)]) for plan in plans
        ]

    def merge_ids(self) -> np.ndarray:
        """(left, right, merged) ids of every merge, in order of priority, int32 [merges, 3]."""
        ids = [[self._library.token_to_id(token) for token in (a, b, a + b)] for a, b in self._rules()]
        return np.array(ids, np.int32).reshape(-1, 3)

    def word_ends(self, data: bytes) -> np.ndarray:
        """Where the words end that merges stay within, in bytes: int64 [words], rising. An invalid byte is a word."""
        lengths = []
        for run in runs(data):
            pieces = [] if isinstance(run, int) else self._library.pre_tokenizer.pre_tokenize_str(run)
            lengths += [1] if isinstance(run, int) else [len(piece) for piece, _ in pieces]
        return np.cumsum(lengths, dtype=np.int64)

    def save(self, path: str | pathlib.Path) -> None:
        """Write the library's JSON, which `BPETokenizer.load` and the library itself read."""
        pathlib.Path(path).write_text(self.definition, encoding="utf-8")

    @classmethod
    def load(
        cls, path: str | pathlib.Path, bytes_per_token: float = 4.0, vocab_size: int | None = None
    ) -> "BPETokenizer":
        """Read a file that `save` wrote.

        Raises:
            UserError: the file is not a tokenizer, not one that round-trips every byte string, or not of `vocab_size`.
        """
        try:
            tokenizer = cls(pathlib.Path(path).read_text(encoding="utf-8"), bytes_per_token)
            library = tokenizer._library
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path} is not a readable tokenizer file ({error}).") from error
        if not set(byte_alphabet()) <= set(library.get_vocab()):
            raise UserError(f"{path} is no byte-level tokenizer: it has no token for some single bytes.")
        probe = bytes(range(256)) + " I'd  said:\r\n\tﬁancée e\u0301 İ 漢字 🙂<bos><|endoftext|> \n 12345 ".encode()
        try:
            exact = tokenizer.decode(tokenizer.encode(probe)) == probe
        except (KeyError, IndexError):  # tokens outside the byte alphabet
            exact = False
        if not exact:
            raise UserError(f"{path} does not give back the bytes that it encoded, so it cannot be used here.")
        if vocab_size not in (None, tokenizer.vocab_size):
            raise UserError(f"{path} has {tokenizer.vocab_size} ids, not the {vocab_size} that were asked for.")
        return tokenizer


def train_bpe(documents: Iterable[bytes], vocab_size: int, bytes_per_token: float = 4.0) -> BPETokenizer:
    """Learn a byte-level BPE with `vocab_size` ids: 256 bytes, merges seen at least twice, BOS and EOS.

    Raises:
        UserError: `vocab_size` is under 258, or the documents hold too few distinct pairs for it.
    """
    tokenizer = train_bpe_up_to(documents, vocab_size, bytes_per_token)
    if tokenizer.vocab_size < vocab_size:
        raise UserError(
            f"The corpus is too small for a BPE vocabulary of {vocab_size}: it yields only {tokenizer.vocab_size}."
        )
    return tokenizer


def train_bpe_up_to(documents: Iterable[bytes], vocab_size: int, bytes_per_token: float = 4.0) -> BPETokenizer:
    """`train_bpe` with fewer ids where the documents hold no more pairs. UserError if `vocab_size` is under 258."""
    return BPETokenizer(learn((text for data in documents for text in valid_texts(data)), vocab_size), bytes_per_token)


def learn(texts: Iterable[str], vocab_size: int, within_words: bool = True) -> str:
    """The library's JSON of up to `vocab_size` ids learned from `texts`, within GPT-2's words or the texts as they are.

    UserError if `vocab_size` is under 258: 256 bytes, BOS and EOS.
    """
    if vocab_size < 258:
        raise UserError(f"A BPE vocabulary needs at least 258 ids (256 bytes, BOS and EOS), not {vocab_size}.")
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=within_words)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 2, min_frequency=2, initial_alphabet=byte_alphabet(), show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    return library.to_str()
