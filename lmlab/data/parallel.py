"""The same text in several languages, line by line."""

import dataclasses
import os

from lmlab.data.categories import text_files
from lmlab.data.corpora import read_file
from lmlab.data.library_parts import LibraryPart
from lmlab.errors import UserError

# First code points of 64 letters or more in a row; UTF-8 writes each in 1 (Latin's own), 2, 3 or 4 bytes.
SCRIPTS = {"latin": None, "cyrillic": 0x0410, "ethiopic": 0x1200, "deseret": 0x10400}
_LATIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class ParallelText:
    """One file per language in the folder `path`, called `<anything>.<language>.txt[.gz]`, as many lines in each, the
    same sentence in the same line: NTREX-128 as it is. `languages`: those that are read, () for all.

    None: the prose of Python's standard library in four scripts, letter for letter. These are one language; what is
    left between them is the number of bytes in a letter.
    """

    path: str | None = None
    languages: tuple[str, ...] = ()
    lines: int = 2000  # at most

    def check(self):
        """UserError unless the texts are there and parallel."""
        self.texts()

    def texts(self):
        """{language: lines}, bytes; where a line is missing in one language it is left out in all."""
        texts = self._scripts() if self.path is None else self._files()
        lengths = {name: len(lines) for name, lines in texts.items()}
        if len(lengths) < 2:
            raise UserError(f"{self.path} holds {len(lengths)} of the languages; there must be 2 or more.")
        if len(set(lengths.values())) > 1:
            few, many = min(lengths, key=lengths.get), max(lengths, key=lengths.get)
            raise UserError(
                f"{self.path} is not parallel text: {few} has {lengths[few]} lines and {many} {lengths[many]}."
            )
        rows = [row for row in zip(*texts.values(), strict=True) if all(line.strip() for line in row)][: self.lines]
        if len(rows) < min(2, self.lines):
            where = self.path or "The default corpus"
            raise UserError(f"{where} has {len(rows)} lines that are there in every language; there must be 2 or more.")
        return dict(zip(texts, map(list, zip(*rows, strict=True)), strict=True))

    def _files(self):
        if not os.path.isdir(self.path):
            raise UserError(f"There is no folder of texts at {self.path}.")
        names = text_files(self.path)
        if missing := [language for language in self.languages if language not in names]:
            raise UserError(f"{self.path} has no text in {', '.join(missing)}.")
        wanted = self.languages or names
        return {l: read_file(os.path.join(self.path, names[l])).rstrip(b"\n").split(b"\n") for l in wanted}

    def _scripts(self):
        documents = LibraryPart(200 * self.lines, part="prose").documents()
        lines = (line for document in documents for line in document.data.decode("utf-8", "replace").splitlines())
        chosen = []
        for line in lines:
            if len(line) > 40:
                chosen.append(line)
            if len(chosen) == self.lines:
                break
        scripts = {name: SCRIPTS[name] for name in self.languages or SCRIPTS}
        return {name: [in_script(line, first).encode() for line in chosen] for name, first in scripts.items()}


def in_script(text, first):
    """The text with its Latin letters written as the letters from code point `first` on; None: as they are."""
    return text if first is None else text.translate({ord(c): first + i for i, c in enumerate(_LATIN)})
