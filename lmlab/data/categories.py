"""Several texts side by side, each under its name: what tokenizers are audited on."""

import collections
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
            # A limit that nothing reaches: without one, documents come by their paths, and halves would be of a kind each.
            return {part: LibraryPart(2**40, part=part) for part in ("prose", "code")}
        if not os.path.isdir(self.path):
            raise UserError(f"There is no folder of texts at {self.path}.")
        return {name: Files(os.path.join(self.path, file)) for name, file in text_files(self.path).items()}

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


def text_files(folder):
    """{name: file} of the texts in a folder, in order of the files: "newstest2019-ref.deu.txt.gz" is "deu", unless
    another file would be called so too; then these have the names of their files."""
    files = sorted(file for file in os.listdir(folder) if is_text(file))
    short = {file: re.sub(r"\.(txt|jsonl|parquet|fa|fasta)?(\.gz)?$", "", file).rsplit(".", 1)[-1] for file in files}
    often = collections.Counter(short.values())
    return {short[file] if often[short[file]] == 1 else file: file for file in files}


def halves(documents):
    """(every other document, the others): a tokenizer learns from one half and is looked at on the other."""
    return documents[::2], documents[1::2]
