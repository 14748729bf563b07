"""Published tokenizers, read from their files and exact on any byte string."""

import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Iterator

import tokenizers

from lmlab.errors import UserError
from lmlab.text.bpe import BPETokenizer, byte_alphabet, runs
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.longest_match import LongestMatchTokenizer, is_vocabulary
from lmlab.text.lossless import loss
from lmlab.text.multi_word import MultiWordTokenizer
from lmlab.text.tokenizer_formats import SPACE, read_definition

BEGINS = ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>", "[CLS]")
ENDS = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]")
PROBE = bytes(range(256)) + (
    " I'd  said:\r\n\tﬁancée \u00a0\u2003  İ 漢字 \u2581\u2581 ▁x 🙂 <s><bos><|endoftext|><0x41> \n\n y \n\n 12345    \n  "
).encode()
NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}  # bytes that no UTF-8 text holds
_CUT = re.compile(r"(?<=\S)(?= )")
_PIECE = 1 << 20  # characters that one call of the library sees at most, if the text allows a cut


@dataclasses.dataclass(frozen=True)
class TokenizerFile:
    """Recipe: the tokenizer in the file or folder `path`, in any format of `lmlab.text.tokenizer_formats`, RWKV's
    list of tokens, or as `MultiWordTokenizer` writes it.

    Nothing is learned from a corpus. See `FileTokenizer` for what is read otherwise than the file says.
    """

    path: str
    bytes_per_token: float = 4.0  # nominal, for FLOPs per byte; never used in a score

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer; 0 where the file is gone, as it may be once a run has its copy."""
        return self.read().vocab_size if pathlib.Path(self.path).exists() else 0

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name, by what the file holds."""
        return self.read().fingerprint

    def read(self) -> "FileTokenizer | LongestMatchTokenizer | MultiWordTokenizer":
        """The tokenizer. UserError: the file cannot be read, or does not give back every byte."""
        path = pathlib.Path(self.path)
        if not path.exists():
            raise UserError(f"There is no tokenizer at {path}.")
        return _read(str(path), path.stat().st_mtime_ns, self.bytes_per_token)

    def train(self, documents: Iterable[bytes]) -> "FileTokenizer | LongestMatchTokenizer | MultiWordTokenizer":
        """The tokenizer as it is."""
        return self.read()

    def load(self, path: str | pathlib.Path) -> "FileTokenizer | LongestMatchTokenizer | MultiWordTokenizer":
        """Read what the tokenizer's `save` wrote."""
        return _load(path, self.bytes_per_token)


@functools.lru_cache(maxsize=8)
def _read(path, time, bytes_per_token):
    return _load(path, bytes_per_token)


def _load(path, bytes_per_token):
    """Multi-word tokens over a published tokenizer or bytes, or that tokenizer itself."""
    path = pathlib.Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if is_vocabulary(file):
        return LongestMatchTokenizer.load(file, bytes_per_token)
    if not _has_phrases(file):
        return FileTokenizer.load(path, bytes_per_token)
    of_base = lambda base: _load(base, bytes_per_token) if base.exists() else ByteTokenizer()  # noqa: E731
    return MultiWordTokenizer.load(file, of_base, bytes_per_token)


def _has_phrases(file):
    try:
        content = json.loads(file.read_bytes()) if file.suffix == ".json" else None
    except (OSError, ValueError):  # what is wrong is said by who reads it
        return False
    return isinstance(content, dict) and content.keys() == {"base", "phrases"}


@dataclasses.dataclass(frozen=True)
class FileTokenizer(BPETokenizer):
    """A tokenizer that was read from a file. Its ids are the file's.

    Three things are not as the file says, so that tokens cover bytes exactly. No space is put before a text (Llama's is:
    encode b" " + text for its tokens). Text is not brought into Unicode's NFC first. The names of special tokens inside a
    document are text.

    `bos` and `eos` are the file's, one token for both where it has only one (GPT-2); where it has none, they are new
    ids behind its own, and so is a byte that no UTF-8 text holds where the file has no token for it (NeoX). Special
    tokens, and ids that the file leaves out, stand for no bytes.
    """

    @functools.cached_property
    def _library(self) -> tokenizers.Tokenizer:
        content = json.loads(self.definition)
        content["normalizer"] = _without_prefix(content.get("normalizer"), "normalizers")
        content["pre_tokenizer"] = _without_prefix(content.get("pre_tokenizer"), "pretokenizers")
        content["post_processor"] = None
        library = tokenizers.Tokenizer.from_str(json.dumps(content))
        library.encode_special_tokens = True
        library.no_padding()
        library.no_truncation()
        return library

    @functools.cached_property
    def has_fallback(self) -> bool:
        """Whether single bytes are pieces of their own ("<0x0A>"), as in SentencePiece, beside pieces of text."""
        return bool(json.loads(self.definition)["model"].get("byte_fallback"))

    @functools.cached_property
    def own_size(self) -> int:
        """Ids of the file itself: the rows that a checkpoint must have. `vocab_size` may be larger."""
        return max(self._library.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def byte_ids(self) -> list[int]:
        """The token of each single byte [256]."""
        names = [f"<0x{byte:02X}>" for byte in range(256)] if self.has_fallback else byte_alphabet()
        new = itertools.count(self.own_size)
        ids = [self._library.token_to_id(name) for name in names]
        return [next(new) if token is None and byte in NEVER else token for byte, token in enumerate(ids)]

    @functools.cached_property
    def _ids(self) -> tuple[list[bytes], int, int]:
        """(bytes of every id, bos, eos)"""
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        added = self._library.get_added_tokens_decoder()
        byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
        found = [b""] * (1 + max(self.own_size - 1, *self.byte_ids))
        for name, token in vocabulary.items():
            if token in added:
                found[token] = b"" if added[token].special else name.encode()
            elif self.has_fallback:
                found[token] = name.replace(SPACE, " ").encode()
            else:  # what has other characters is special and was never declared so
                found[token] = bytes(byte_of[c] for c in name) if byte_of.keys() >= set(name) else b""
        for byte, token in enumerate(self.byte_ids):
            found[token] = bytes([byte])
        bos, eos = (next((vocabulary[n] for n in names if n in vocabulary), None) for names in (BEGINS, ENDS))
        if bos is None and eos is None:
            bos, eos = len(found), len(found) + 1
            found += [b"", b""]
        bos, eos = (eos if bos is None else bos), (bos if eos is None else eos)
        found[bos] = found[eos] = b""
        return found, bos, eos

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        return self._ids[0]

    @property
    def bos(self) -> int:
        return self._ids[1]

    @property
    def eos(self) -> int:
        return self._ids[2]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name: size and the first 48 bits of a hash of the definition."""
        return f"file{self.vocab_size}-{hashlib.sha256(self.definition.encode()).hexdigest()[:12]}"

    @functools.cached_property
    def _may_cut(self) -> bool:
        """Whether no token goes on with a space: then text may be cut before each."""
        return not any(re.search(r"\S ", token.decode("utf-8", "ignore")) for token in self._token_bytes)

    def _parts(self, data: bytes) -> Iterator[str | int]:
        for run in runs(data):
            if isinstance(run, int):
                yield run
                continue
            # SentencePiece's space, where a document holds it, would come back as a space.
            for i, text in enumerate(run.split(SPACE) if self.has_fallback else [run]):
                yield from SPACE.encode() if i else ()
                yield from self._pieces(text)

    def _pieces(self, text: str) -> Iterator[str]:
        start = 0
        while self._may_cut and len(text) - start > _PIECE and (cut := _CUT.search(text, start + _PIECE)):
            yield text[start : cut.start()]
            start = cut.start()
        if start < len(text):
            yield text[start:]

    @classmethod
    def load(cls, path: str | pathlib.Path, bytes_per_token: float = 4.0) -> "FileTokenizer":
        """Read a published file or what `save` wrote.

        Raises:
            UserError: it is no tokenizer, or not one that round-trips every byte string.
        """
        tokenizer = cls(read_definition(path), bytes_per_token)
        try:
            if reason := loss(json.loads(tokenizer.definition)):
                raise UserError(f"{path} does not round-trip bytes: {reason}.")
            tokenizer._library  # noqa: B018
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path} is not a readable tokenizer file ({error}).") from error
        if None in tokenizer.byte_ids:
            raise UserError(f"{path} does not round-trip bytes: it has no token for some single bytes.")
        for token, added in tokenizer._library.get_added_tokens_decoder().items():
            if added.special and token in tokenizer._library.encode(added.content, add_special_tokens=False).ids:
                raise UserError(f"{path} does not round-trip bytes: text is encoded to its special token {added.content!r}.")
        documents = [PROBE, PROBE[256:], *(PROBE[i:] + PROBE[:i] for i in range(256, len(PROBE), 7))]
        for document, ids in zip(documents, tokenizer.encode_batch(documents), strict=True):
            if tokenizer.decode(ids) != document:
                raise UserError(f"{path} does not round-trip bytes: it does not give back what it encoded.")
        return tokenizer


def _without_prefix(part, parts):
    """A normalizer or pre-tokenizer without what puts a space before texts, and without NFC."""
    if part is None or part["type"] in ("NFC", "Prepend"):
        return None
    if part["type"] == "Sequence":
        kept = [_without_prefix(p, parts) for p in part[parts]]
        return {**part, parts: [p for p in kept if p is not None]}
    if part["type"] == "ByteLevel":
        return {**part, "add_prefix_space": False}
    if part["type"] == "Metaspace":
        return {**part, "prepend_scheme": "never"}
    return part
