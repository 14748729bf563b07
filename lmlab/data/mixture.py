"""Equally much of several texts, each of which is also evaluated on its own."""

import dataclasses
import hashlib
import os

from lmlab.data.corpora import Files, cut_documents, unique
from lmlab.data.library_parts import LibraryPart
from lmlab.errors import UserError


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One text per folder below `path`, called by the folder's name; None: the documentation and the code of Python's
    standard library.

    Of each text `bytes_per_text`, in documents of at most `cut` bytes, taken in an order given by their content: the first
    are for test, the next for validation, so that each split holds equally much of every text. Other cuts of the same file
    may lie on the other side.
    """

    path: str | None = None
    bytes_per_text: int = 4_000_000
    cut: int = 4096
    validation: float = 0.05  # share of the bytes of each text
    test: float = 0.05

    def _texts(self):
        """{name: corpus}."""
        if self.path is None:
            return {"code": LibraryPart(part="code"), "english": LibraryPart(part="prose")}
        if not os.path.isdir(self.path):
            raise UserError(f"There is no folder of texts at {self.path}.")
        names = sorted(n for n in os.listdir(self.path) if not n.startswith("."))
        folders = {n: os.path.join(self.path, n) for n in names if os.path.isdir(os.path.join(self.path, n))}
        if not folders:
            raise UserError(f"A mixture has one folder for each of its texts; {self.path} has none.")
        return {name: Files(folder) for name, folder in folders.items()}

    def documents(self):
        """Yields every distinct document once, text after text; UserError for a text that is too short."""
        for name, corpus in self._texts().items():
            documents = unique(cut_documents(corpus.documents(), self.cut))
            total = 0
            for document in sorted(documents, key=lambda d: hashlib.sha256(d.data).digest()):
                share = total / self.bytes_per_text
                if share < 1:
                    held_out = "test" if share < self.test else "validation"
                    split = held_out if share < self.test + self.validation else "train"
                    total += len(document.data)
                    yield document._replace(text=name, split=split)
            if total < self.bytes_per_text:
                raise UserError(
                    f"The text {name!r} has {total:,} distinct bytes; a mixture takes bytes_per_text = "
                    f"{self.bytes_per_text:,} of each."
                )

    def fingerprint(self):
        """Names the baked text."""
        h = hashlib.sha256(repr((self.bytes_per_text, self.cut)).encode())
        for name, corpus in self._texts().items():
            h.update(f"{name}\0{corpus.fingerprint()}\n".encode())
        return f"mixture-{h.hexdigest()[:16]}"
