"""Where documents come from, and which split each belongs to."""

import dataclasses
import gzip
import hashlib
import json
import os
import re
import sys
import sysconfig
import zlib
from typing import NamedTuple

from lmlab.errors import UserError


class Document(NamedTuple):
    """A text as its bytes."""

    name: str
    data: bytes
    split: str | None = None  # None: the corpus' own fractions decide
    text: str | None = None  # which of several that a corpus mixes


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


def documents_of(corpus):
    """Yields (split, bytes, text) of every document of a corpus."""
    for document in corpus.documents():
        split = document.split or split_of(document.data, corpus.validation, corpus.test)
        yield split, document.data, document.text


def train_split(corpus):
    """Yields the documents of its train split, as bytes."""
    return (data for split, data, _ in documents_of(corpus) if split == "train")


def _walk(root, skip=()):
    """Paths of the files below `root` in a fixed order, without hidden ones."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(d for d in folders if not d.startswith(".") and d not in skip)
        yield from (os.path.join(folder, name) for name in sorted(names) if not name.startswith("."))


@dataclasses.dataclass(frozen=True)
class StandardLibrary:
    """Sources and documentation of the running Python's standard library: text that every machine has.

    `max_bytes`: take documents in an order given by their content, skipping what no longer fits; None: all.
    """

    max_bytes: int | None = None
    validation: float = 0.05  # share of documents
    test: float = 0.05

    @staticmethod
    def _paths():
        for path in _walk(sysconfig.get_paths()["stdlib"], ("__pycache__", "site-packages", "dist-packages", "_bundled")):
            # _sysconfigdata_*.py is how this machine's Python was built, not text that every machine has.
            if path.endswith((".py", ".txt", ".rst")) and "_sysconfigdata" not in path:
                yield path

    def documents(self):
        """Yields every distinct document once."""
        root = sysconfig.get_paths()["stdlib"]
        documents = []
        for path in self._paths():
            with open(path, "rb") as f:
                documents.append(Document(os.path.relpath(path, root), f.read()))
        documents = unique(documents)
        if self.max_bytes is not None:
            # By the reversed hash: its first bytes decide the split, so the plain order would begin with all of test.
            documents = sorted(documents, key=lambda d: hashlib.sha256(d.data).digest()[::-1])
        total = 0
        for document in documents:
            if self.max_bytes is None or total + len(document.data) <= self.max_bytes:
                total += len(document.data)
                yield document

    def fingerprint(self):
        """Names the baked text: changes with the Python and with any file's name or size, not with the machine."""
        root, h = sysconfig.get_paths()["stdlib"], hashlib.sha256()
        for path in self._paths():
            h.update(f"{os.path.relpath(path, root)}\0{os.path.getsize(path)}\n".encode())
        version = ".".join(map(str, sys.version_info[:3]))
        return f"stdlib-{version}-{h.hexdigest()[:12]}-{self.max_bytes}"


@dataclasses.dataclass(frozen=True)
class Files:
    """A file, or every file below a folder but the hidden ones.

    .jsonl has one document per line in the field `text`, .parquet one per row in the column `text`, .fa and .fasta one
    per sequence, its bases in upper case; any other file is one document. A further .gz is unpacked.
    `cut`: make documents of at most so many bytes, of books or genomes that are too few to be split otherwise.
    """

    path: str
    validation: float = 0.05  # share of documents
    test: float = 0.05
    cut: int | None = None

    def documents(self):
        """Yields every distinct document once; UserError for what cannot be read."""
        documents = self._all()
        yield from unique(documents if self.cut is None else cut_documents(documents, self.cut))

    def _paths(self):
        return _walk(self.path) if os.path.isdir(self.path) else [self.path]

    def _all(self):
        if not os.path.exists(self.path):
            raise UserError(f"There is no corpus at {self.path}.")
        for path in self._paths():
            try:
                yield from _read(path)
            except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
                raise UserError(f"Cannot read {path}: {type(error).__name__}: {error}.") from error

    def fingerprint(self):
        """Names the baked text: changes with any file's path, size or time."""
        h = hashlib.sha256(os.path.abspath(self.path).encode())
        for path in self._paths():
            if os.path.exists(path):
                status = os.stat(path)
                h.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return f"files-{h.hexdigest()[:16]}" + (f"-{self.cut}" if self.cut else "")


def require_replaceable(corpus):
    """UserError for a corpus that text at a path cannot stand for: one that is made for what is asked about it
    (`synthetic`), or of the words of its `source`."""
    if getattr(corpus, "synthetic", False):
        raise UserError(
            f"{type(corpus).__name__} is text made for what is asked about it; --corpus would put other text in its place."
        )
    if hasattr(corpus, "source"):
        raise UserError(
            f"{type(corpus).__name__} are the words of a text; --corpus would put running text in their place: name "
            "other text or words in the experiment's own file instead."
        )


def read_file(path):
    """The bytes of a file, unpacked if it ends in .gz; UserError if it cannot be read."""
    try:
        with gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb") as f:
            return f.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"Cannot read {path}: {type(error).__name__}: {error}.") from error


def cut_documents(documents, size):
    """Documents of at most `size` bytes: cut behind the last line end that fits, or else between two characters."""
    if size < 4:
        raise UserError(f"corpus.cut is {size}; a document has at least 4 bytes, a whole UTF-8 character.")
    for document in documents:
        data, start = document.data, 0
        while start < len(data):
            end = start + size
            if end < len(data):
                line = data.rfind(b"\n", start, end) + 1
                end = line or next((e for e in range(end, end - 4, -1) if data[e] & 0xC0 != 0x80), end)
            yield document._replace(name=f"{document.name}@{start}", data=data[start:end])
            start = end


PACKED = (".zst", ".bz2", ".xz", ".zip", ".7z", ".tar", ".tgz", ".lz4", ".br")  # that are not read


def _read(path):
    packed = path.lower().endswith(".gz")
    name = path.lower().removesuffix(".gz")
    if name.endswith(PACKED):
        raise ValueError("of compressed files only .gz is read; unpack it first")
    with gzip.open(path) if packed else open(path, "rb") as f:
        if name.endswith(".jsonl"):
            for i, line in enumerate(f):
                if line.strip():
                    yield Document(f"{path}:{i + 1}", _text(json.loads(line), f"line {i + 1}"))
        elif name.endswith(".parquet"):
            for i, row in enumerate(_parquet_rows(f)):
                yield Document(f"{path}:{i}", _text(row, f"row {i}"))
        elif name.endswith((".fa", ".fasta")):
            yield from _sequences(path, f.read())
        else:
            yield Document(path, f.read())


def _sequences(path, data):
    """The records of a FASTA file: ">" and a name, then lines of bases."""
    before, *records = re.split(rb"^>", data, flags=re.MULTILINE)
    if before.strip() or not records:
        raise ValueError("a FASTA file begins with >")
    for record in records:
        name, _, lines = record.partition(b"\n")
        yield Document(f"{path}:{name.decode('ascii', 'replace').strip()}", b"".join(lines.split()).upper())


def _text(record, where):
    """The field `text` as bytes; half a surrogate pair, which JSON can spell, is kept as it is."""
    if not isinstance(record, dict) or not isinstance(record.get("text"), str | bytes):
        raise ValueError(f"{where} has no text in the field 'text'")
    text = record["text"]
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def _parquet_rows(f):
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError('Reading .parquet needs pyarrow: pip install "lmlab[parquet]".') from error
    for batch in pyarrow.parquet.ParquetFile(f).iter_batches(columns=["text"]):
        yield from batch.to_pylist()
