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

    Of each text `bytes_per_text`, in documents of at most `cut` bytes, taken in an order given by their content.
    """

    path: str | None = None
    bytes_per_text: int = 4_000_000
    cut: int = 4096
    validation: float = 0.05  # share of documents
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
            # By the reversed hash: its first bytes decide the split, so the plain order would begin with all of test.
            documents = sorted(
                unique(cut_documents(corpus.documents(), self.cut)),
                key=lambda d: hashlib.sha256(d.data).digest()[::-1],
            )
            total = 0
            for document in documents:
                if total < self.bytes_per_text:
                    total += len(document.data)
                    yield document._replace(text=name)
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
