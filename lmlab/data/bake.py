"""Corpora to shards on disk, once: tokens of every split, where documents start, and a manifest that proves it."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from typing import Any, NamedTuple

import numpy as np

from lmlab.config import load_json
from lmlab.data.corpora import documents_of, train_split
from lmlab.errors import UserError

FORMAT = 2  # in the folder's name: a change of what is baked must change it
SPLITS = ("train", "validation", "test")
SHARD_BYTES = 256 * 2**20
GROUP_BYTES = 16 * 2**20  # of documents, encoded at once


AT_ONCE = 1 << 20  # tokens of a stream that are counted together


class TokenStream(NamedTuple):
    """Documents end to end, each as BOS, tokens, EOS."""

    tokens: Any  # uint8, uint16 or uint32 [n]: an array, or `Shards`
    starts: np.ndarray  # int64 [documents]: index of each BOS

    def bytes_per_token(self, tokenizer):
        """Source bytes per token, BOS and EOS left out."""
        parts = range(0, len(self.tokens), AT_ONCE)
        counts = sum(np.bincount(self.tokens[i : i + AT_ONCE], minlength=tokenizer.vocab_size) for i in parts)
        counts[[tokenizer.bos, tokenizer.eos]] = 0
        return float(counts @ tokenizer.token_lengths() / counts.sum())


class Shards:
    """Memory-mapped files that read as one array: `len` and slices. All but the last have the same length."""

    def __init__(self, arrays):
        self._arrays = arrays

    def __len__(self):
        return sum(len(array) for array in self._arrays)

    def __getitem__(self, where):
        start, stop, _ = where.indices(len(self))
        size = len(self._arrays[0])
        parts = range(start // size, -(-stop // size)) if start < stop else (0,)
        return np.concatenate([self._arrays[i][max(0, start - i * size) : max(0, stop - i * size)] for i in parts])


def cache_directory():
    """$LMLAB_CACHE, or ~/.cache/lmlab."""
    return os.environ.get("LMLAB_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "lmlab")


def token_dtype(vocab_size):
    """Smallest unsigned type that holds every id."""
    return np.dtype(np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.uint32)


def stream_of(documents, tokenizer):
    """An in-memory stream of documents (bytes)."""
    encoded = tokenizer.encode_batch(documents)
    ends = np.cumsum([len(ids) + 2 for ids in encoded], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    tokens = np.empty(ends[-1] if len(ends) else 0, token_dtype(tokenizer.vocab_size))
    for start, end, ids in zip(starts, ends, encoded, strict=True):
        tokens[start], tokens[end - 1] = tokenizer.bos, tokenizer.eos
        tokens[start + 1 : end - 1] = ids
    return TokenStream(tokens, starts)


def bake(corpus, recipe, cache=None):
    """`Baked` tokens of `corpus` under a tokenizer recipe (`ByteTokenizer()` or `BPE(...)`), made once and reused.

    A BPE is trained on the train split only. The folder appears whole or not at all, also where several processes
    bake at once. UserError for a corpus that is unreadable or empty, or has no document for a split of which it
    should hold a share.
    """
    name = f"{corpus.fingerprint()}-{corpus.validation}-{corpus.test}-{recipe.fingerprint}-v{FORMAT}"
    directory = os.path.join(cache or cache_directory(), "baked", name)
    if not os.path.exists(directory):
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".baking-", dir=os.path.dirname(directory)) as temporary:
            whole = os.path.join(temporary, "whole")
            os.mkdir(whole)
            _write(corpus, recipe, whole)
            with contextlib.suppress(OSError):  # another process was first
                os.rename(whole, directory)
    return Baked(directory, recipe)


def _write(corpus, recipe, folder):
    tokenizer = recipe.train(train_split(corpus))
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    writers = {split: _SplitWriter(folder, split, tokenizer) for split in SPLITS}
    for split, data, text in documents_of(corpus):
        writers[split].add(data, text)
    splits = {split: writer.close() for split, writer in writers.items()}
    total = sum(entry["documents"] for entry in splits.values())
    if not total:
        raise UserError("The corpus is empty.")
    for split, share in {"train": 1, "validation": corpus.validation, "test": corpus.test}.items():
        if share and not splits[split]["documents"]:
            raise UserError(f"None of the corpus' {total} distinct documents falls into its {split} split.")
    files = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        files[name] = {"bytes": os.path.getsize(path), "sha256": _sha256(path)}
    manifest = {"format": FORMAT, "corpus": corpus.fingerprint(), "tokenizer": tokenizer.fingerprint}
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as f:
        json.dump(manifest | {"splits": splits, "files": files}, f, indent=1)


def _sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class _SplitWriter:
    """Documents of one split to `<split>-00000.bin`, ... and `<split>-starts.npy`, in bounded memory."""

    def __init__(self, folder, split, tokenizer):
        self._prefix, self._tokenizer = os.path.join(folder, split), tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._per_shard = SHARD_BYTES // self._dtype.itemsize
        self._group, self._group_bytes = [], 0
        self._starts, self._tokens, self._source_bytes = [np.zeros(0, np.int64)], 0, 0
        self._texts = []  # [name, documents] in order, of a corpus of several

    def add(self, data, text):
        if text is not None:
            if not self._texts or self._texts[-1][0] != text:
                self._texts.append([text, 0])
            self._texts[-1][1] += 1
        self._group.append(data)
        self._group_bytes += len(data)
        if self._group_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self):
        stream = stream_of(self._group, self._tokenizer)
        self._starts.append(stream.starts + self._tokens)
        rest = stream.tokens
        while len(rest):
            shard, used = divmod(self._tokens, self._per_shard)
            part, rest = np.split(rest, [self._per_shard - used])
            with open(f"{self._prefix}-{shard:05d}.bin", "ab") as f:
                f.write(part.tobytes())
            self._tokens += len(part)
        self._source_bytes += self._group_bytes
        self._group, self._group_bytes = [], 0

    def close(self):
        self._flush()
        starts = np.concatenate(self._starts)
        np.save(f"{self._prefix}-starts.npy", starts)
        return {
            "documents": len(starts),
            "source_bytes": self._source_bytes,
            "tokens": self._tokens,
            "dtype": self._dtype.name,
            **({"texts": self._texts} if self._texts else {}),
        }


class Baked:
    """Baked tokens on disk: `.tokenizer`, `.split(name)`, `.documents(name)`, `.source_bytes(name)`, `.manifest`.

    Opening checks that every file is there in its full size; `verify` checks every byte.
    """

    def __init__(self, directory, recipe):
        self.directory = directory
        self.manifest = load_json(os.path.join(directory, "manifest.json"))
        if not isinstance(self.manifest, dict) or not isinstance(self.manifest.get("files"), dict):
            raise UserError(f"{directory} does not hold a baked corpus: its manifest is not one.")
        for name, entry in self.manifest["files"].items():
            path = os.path.join(directory, name)
            size = os.path.getsize(path) if os.path.exists(path) else None
            if size != entry["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
                raise UserError(f"The baked file {path} {found}: delete its folder.")
        self.tokenizer = recipe.load(os.path.join(directory, "tokenizer.json"))
        self._streams = {split: self._open(split) for split in SPLITS}

    @property
    def identity(self):
        """SHA-256 of everything baked: equal for equal tokens and tokenizer."""
        return hashlib.sha256(json.dumps(self.manifest["files"], sort_keys=True).encode()).hexdigest()

    def _open(self, split):
        names = sorted(n for n in self.manifest["files"] if n.startswith(f"{split}-") and n.endswith(".bin"))
        dtype = np.dtype(self.manifest["splits"][split]["dtype"])
        maps = [np.memmap(os.path.join(self.directory, name), dtype, "r") for name in names]
        tokens = Shards(maps) if len(maps) > 1 else maps[0] if maps else np.zeros(0, dtype)
        return TokenStream(tokens, np.load(os.path.join(self.directory, f"{split}-starts.npy"), mmap_mode="r"))

    def verify(self):
        """UserError if any file's content is not what was baked."""
        for name, entry in self.manifest["files"].items():
            path = os.path.join(self.directory, name)
            if _sha256(path) != entry["sha256"]:
                raise UserError(f"The baked file {path} is damaged: delete its folder.")

    def split(self, name):
        """`TokenStream` of a split, memory-mapped."""
        stream = self._streams[name]
        if not len(stream.starts):
            raise UserError(f"The corpus has no {name} split: its share of the documents is 0.")
        return stream

    def source_bytes(self, name):
        """Bytes of the documents of a split."""
        return self.manifest["splits"][name]["source_bytes"]

    def documents(self, name):
        """Yields the documents of a split as bytes."""
        stream = self.split(name)
        ends = np.append(stream.starts[1:], len(stream.tokens))
        for start, end in zip(stream.starts, ends, strict=True):
            yield self.tokenizer.decode(stream.tokens[start + 1 : end - 1])

    def texts(self, name):
        """{text: its documents in a split}, as bytes; {} for a corpus that is one text."""
        documents = self.documents(name)
        return {
            text: list(itertools.islice(documents, count)) for text, count in self.manifest["splits"][name].get("texts", [])
        }
