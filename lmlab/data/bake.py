"""Corpora to shards on disk, once: tokens of every split, where documents start, and a manifest that proves it."""

import functools
import hashlib
import json
import os
import shutil
import tempfile
from typing import NamedTuple

import numpy as np

from lmlab.data.corpora import split_of
from lmlab.errors import UserError
from lmlab.text.bpe import BPE, BPETokenizer

FORMAT = 1
SPLITS = ("train", "validation", "test")
SHARD_BYTES = 256 * 2**20


class TokenStream(NamedTuple):
    """Documents end to end, each as BOS, tokens, EOS."""

    tokens: np.ndarray  # uint8, uint16 or uint32 [n]
    starts: np.ndarray  # int64 [documents]: index of each BOS


def cache_directory():
    """$LMLAB_CACHE, or ~/.cache/lmlab."""
    return os.environ.get("LMLAB_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "lmlab")


def token_dtype(vocab_size):
    """Smallest unsigned type that holds every id."""
    return np.dtype(np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.uint32)


def stream_of(documents, tokenizer):
    """An in-memory stream of documents (bytes)."""
    encoded = tokenizer.encode_batch(documents)
    lengths = np.array([len(e) + 2 for e in encoded], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if len(lengths) else lengths
    tokens = np.empty(int(lengths.sum()), token_dtype(tokenizer.vocab_size))
    for start, ids in zip(starts, encoded, strict=True):
        tokens[start] = tokenizer.bos
        tokens[start + 1 : start + 1 + len(ids)] = ids
        tokens[start + 1 + len(ids)] = tokenizer.eos
    return TokenStream(tokens, starts)


def bake(corpus, recipe, cache=None):
    """`Baked` tokens of `corpus` under a tokenizer recipe (`ByteTokenizer()` or `BPE(...)`), made once and reused.

    A BPE is trained on the train split only. The folder appears whole or not at all. UserError for a corpus that is
    unreadable, empty, or has a split without a document.
    """
    name = f"{corpus.fingerprint()}-{corpus.validation}-{corpus.test}-{recipe.fingerprint}-v{FORMAT}"
    directory = os.path.join(cache or cache_directory(), "baked", name)
    if not os.path.exists(os.path.join(directory, "manifest.json")):
        _write(corpus, recipe, directory)
    return Baked(directory, recipe)


def _write(corpus, recipe, directory):
    documents = {split: [] for split in SPLITS}
    for document in corpus.documents():
        documents[split_of(document.data, corpus.validation, corpus.test)].append(document.data)
    for split in SPLITS:
        if not documents[split]:
            n = sum(len(d) for d in documents.values())
            raise UserError(f"The corpus has {n} distinct documents, and none of them falls into its {split} split.")
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".baking-", dir=os.path.dirname(directory))
    try:
        tokenizer = recipe.train(documents["train"]) if isinstance(recipe, BPE) else recipe
        if isinstance(recipe, BPE):
            tokenizer.save(os.path.join(temporary, "tokenizer.json"))
        manifest = {"format": FORMAT, "corpus": corpus.fingerprint(), "tokenizer": recipe.fingerprint, "splits": {}}
        for split in SPLITS:
            manifest["splits"][split] = _write_split(temporary, split, documents[split], tokenizer)
        with open(os.path.join(temporary, "manifest.json"), "w", encoding="utf-8") as f:
            json.dump(manifest, f, indent=1)
        try:
            os.rename(temporary, directory)
        except OSError:  # another process was first, or an earlier one left a folder without a manifest
            if not os.path.exists(os.path.join(directory, "manifest.json")):
                shutil.rmtree(directory, ignore_errors=True)
                os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(folder, split, documents, tokenizer):
    stream = stream_of(documents, tokenizer)
    files = {}
    per_shard = SHARD_BYTES // stream.tokens.itemsize
    parts = {
        f"{split}-{i:05d}.bin": stream.tokens[i * per_shard : (i + 1) * per_shard]
        for i in range(max(1, -(-len(stream.tokens) // per_shard)))
    }
    parts[f"{split}-starts.bin"] = stream.starts
    for name, array in parts.items():
        data = array.tobytes()
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return {
        "documents": len(documents),
        "source_bytes": sum(len(d) for d in documents),
        "tokens": len(stream.tokens),
        "dtype": stream.tokens.dtype.name,
        "files": files,
    }


class Baked:
    """Baked tokens on disk: `.tokenizer`, `.split(name)`, `.documents(name)`, `.manifest`."""

    def __init__(self, directory, recipe):
        self.directory = directory
        with open(os.path.join(directory, "manifest.json"), encoding="utf-8") as f:
            self.manifest = json.load(f)
        for name, entry in self._files():
            path = os.path.join(directory, name)
            size = os.path.getsize(path) if os.path.exists(path) else None
            if size != entry["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes"
                raise UserError(f"The baked file {path} {found} instead of {entry['bytes']}: delete its folder.")
        self.tokenizer = recipe
        if isinstance(recipe, BPE):
            self.tokenizer = BPETokenizer.load(os.path.join(directory, "tokenizer.json"), recipe.bytes_per_token)

    def _files(self):
        return [item for split in self.manifest["splits"].values() for item in split["files"].items()]

    def verify(self):
        """UserError if any file's content is not what was baked."""
        for name, entry in self._files():
            with open(os.path.join(self.directory, name), "rb") as f:
                if hashlib.sha256(f.read()).hexdigest() != entry["sha256"]:
                    raise UserError(f"The baked file {os.path.join(self.directory, name)} is damaged: delete its folder.")

    @functools.lru_cache(maxsize=3)  # noqa: B019
    def split(self, name):
        """`TokenStream` of a split, memory-mapped where it is one shard."""
        entry = self.manifest["splits"][name]
        shards = sorted(f for f in entry["files"] if not f.endswith("-starts.bin"))
        maps = [np.memmap(os.path.join(self.directory, f), entry["dtype"], "r") for f in shards]
        starts = np.fromfile(os.path.join(self.directory, f"{name}-starts.bin"), np.int64)
        return TokenStream(maps[0] if len(maps) == 1 else np.concatenate(maps), starts)

    def source_bytes(self, name):
        """Bytes of the documents of a split."""
        return self.manifest["splits"][name]["source_bytes"]

    def documents(self, name):
        """Yields the documents of a split as bytes."""
        stream = self.split(name)
        ends = np.append(stream.starts[1:], len(stream.tokens))
        for start, end in zip(stream.starts, ends, strict=True):
            yield self.tokenizer.decode(stream.tokens[start + 1 : end - 1])
