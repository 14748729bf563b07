"""Several texts side by side, each under its name: what tokenizers are audited on."""

import dataclasses
import os
import re

from lmlab.data.corpora import Files, cut_documents
from lmlab.data.library_parts import LibraryPart
from lmlab.errors import UserError


@dataclasses.dataclass(frozen=True)
class Categories:
    """One text per entry of the folder `path`: a file, or a folder of them; None: the prose and the code of Python's
    standard library. Files are read as `Files` reads them."""

    path: str | None = None
    max_bytes: int = 2_000_000  # of each text
    cut: int = 1000  # documents of at most so many bytes

    def check(self, least=2):
        """UserError unless there are at least so many texts."""
        if (found := len(self._sources())) < least:
            raise UserError(f"{self.path or 'The default corpus'} holds {found} texts; there must be {least} or more.")

    def _sources(self):
        """{name: corpus}."""
        if self.path is None:
            return {part: LibraryPart(3 * self.max_bytes, part=part) for part in ("prose", "code")}
        if not os.path.isdir(self.path):
            raise UserError(f"There is no folder of texts at {self.path}.")
        names = sorted(n for n in os.listdir(self.path) if is_text(n))
        short = [text_name(n) for n in names]
        short = short if len(set(short)) == len(short) else names
        return {s: Files(os.path.join(self.path, n)) for s, n in zip(short, names, strict=True)}

    def texts(self):
        """{name: documents}, in order, bytes; documents of a text are of different content."""
        return {name: self._read(corpus) for name, corpus in self._sources().items()}

    def _read(self, corpus):
        taken, total = [], 0
        for document in cut_documents(corpus.documents(), self.cut):
            if total >= self.max_bytes:
                break
            taken.append(document.data)
            total += len(document.data)
        return taken


def is_text(name):
    """Whether an entry of a folder of texts is one: not hidden, and not what a data set says of itself."""
    return not re.match(r"\.|(?i:licen[cs]e|readme|source)", name)


def text_name(name):
    """What a text in the file `name` is called: "newstest2019-ref.deu.txt.gz" is "deu"."""
    stem = re.sub(r"\.(txt|jsonl|parquet|fa|fasta)?(\.gz)?$", "", name)
    return stem.rsplit(".", 1)[-1]


def halves(documents):
    """(every other document, the others): a tokenizer learns from one half and is looked at on the other."""
    return documents[::2], documents[1::2]
