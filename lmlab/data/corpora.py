"""Where documents come from, and which split each belongs to."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import sys
import sysconfig
from typing import NamedTuple

from lmlab.errors import UserError


class Document(NamedTuple):
    """A text as its bytes."""

    name: str
    data: bytes


def split_of(data, validation=0.05, test=0.05):
    """"train", "validation" or "test", by the SHA-256 of the content: equal documents fall on the same side."""
    u = int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64
    return "test" if u < test else "validation" if u < test + validation else "train"


def unique(documents):
    """Documents whose content has not come before; empty ones are left out."""
    seen = set()
    for document in documents:
        digest = hashlib.sha256(document.data).digest()
        if document.data and digest not in seen:
            seen.add(digest)
            yield document


def _walk(root):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(d for d in folders if d not in ("__pycache__", "site-packages", "_bundled"))
        for name in sorted(names):
            yield os.path.join(folder, name)


@dataclasses.dataclass(frozen=True)
class StandardLibrary:
    """Sources and documentation of the running Python's standard library: text that every machine has.

    `max_bytes`: take documents in the order of their hashes until this many bytes; None: all.
    """

    max_bytes: int | None = None
    validation: float = 0.05  # share of documents
    test: float = 0.05

    def documents(self):
        """Yields every document once."""
        root = sysconfig.get_paths()["stdlib"]
        documents = []
        for path in _walk(root):
            if path.endswith((".py", ".txt", ".rst")):
                with open(path, "rb") as f:
                    documents.append(Document(os.path.relpath(path, root), f.read()))
        documents = list(unique(documents))
        if self.max_bytes is not None:
            documents.sort(key=lambda d: hashlib.sha256(d.data).digest()[::-1])
            total, kept = 0, []
            for document in documents:
                if total + len(document.data) <= self.max_bytes:
                    total += len(document.data)
                    kept.append(document)
            documents = kept
        yield from documents

    def fingerprint(self):
        """Names the baked text: it changes with the Python, not with the machine."""
        return f"stdlib-{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}-{self.max_bytes}"


@dataclasses.dataclass(frozen=True)
class Files:
    """A file, or every file below a folder.

    .jsonl has one document per line in the field `text`, .parquet one per row in the column `text`; any other file
    is one document. A further .gz is unpacked.
    """

    path: str
    validation: float = 0.05  # share of documents
    test: float = 0.05

    def documents(self):
        """Yields every distinct document once; UserError for what cannot be read."""
        yield from unique(self._all())

    def _all(self):
        if not os.path.exists(self.path):
            raise UserError(f"There is no corpus at {self.path}.")
        for path in _walk(self.path) if os.path.isdir(self.path) else [self.path]:
            try:
                yield from _read(path)
            except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"Cannot read {path}: {type(error).__name__}: {error}.") from error

    def fingerprint(self):
        """Names the baked text: changes with any file's path, size or time."""
        h = hashlib.sha256(os.path.abspath(self.path).encode())
        for path in _walk(self.path) if os.path.isdir(self.path) else [self.path]:
            if os.path.exists(path):
                status = os.stat(path)
                h.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return f"files-{h.hexdigest()[:16]}"


def _read(path):
    with open(path, "rb") as f:
        data = f.read()
    name = path
    if name.endswith(".gz"):
        data, name = gzip.decompress(data), name[:-3]
    if name.endswith(".jsonl"):
        for i, line in enumerate(data.splitlines()):
            if line.strip():
                yield Document(f"{path}:{i + 1}", json.loads(line)["text"].encode())
    elif name.endswith(".parquet"):
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(io.BytesIO(data), columns=["text"])
        for i, text in enumerate(table.column("text").to_pylist()):
            yield Document(f"{path}:{i}", text.encode() if isinstance(text, str) else bytes(text or b""))
    else:
        yield Document(path, data)
