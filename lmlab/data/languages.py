"""Text in several languages, and their words, each once: what a tagger of pieces is distilled on."""

import dataclasses
import re
from typing import Any

import numpy as np

from lmlab.data.corpora import Document, split_of
from lmlab.data.library_parts import LibraryPart
from lmlab.data.mixture import Mixture
from lmlab.data.parallel import SCRIPTS, in_script
from lmlab.errors import UserError

WORD = re.compile(r"[^\W\d_]{2,24}")


@dataclasses.dataclass(frozen=True)
class InScript(LibraryPart):
    """The prose of Python's standard library in the script `script`, letter for letter: every `of`-th document, from
    number `number` on, so that scripts share no text."""

    script: str = "latin"
    number: int = 0
    of: int = 1

    def documents(self):
        """Yields every distinct document once."""
        for i, document in enumerate(super().documents()):
            if i % self.of == self.number:
                text = in_script(document.data.decode("utf-8", "replace"), SCRIPTS[self.script])
                yield document._replace(data=text.encode())

    def fingerprint(self):
        """Names the baked text."""
        return f"{super().fingerprint()}-{self.script}-{self.number}-{self.of}"


@dataclasses.dataclass(frozen=True)
class Languages(Mixture):
    """`Mixture` of one folder per language; None: the prose of Python's standard library in three scripts. These are one
    language, and no text is in two of them."""

    scripts: tuple[str, ...] = ("latin", "cyrillic", "ethiopic")

    def _texts(self):
        if self.path is not None:
            return super()._texts()
        return {name: InScript(script=name, number=i, of=len(self.scripts)) for i, name in enumerate(self.scripts)}


@dataclasses.dataclass(frozen=True)
class UniqueWords:
    """Every word of the mixture `source` once, letters alone, in documents of `words` words with a space between, in an
    order drawn by chance: a rare word counts as much as a common one. A word is in one split only: of those in the
    source's training text, chance holds some out; what no training text has stays in the split that its documents are
    in. One that two languages share counts for the first.

    `most`: words of a language. UserError for a language with too few words to be split.
    """

    source: Any
    words: int = 100
    most: int = 20_000
    validation: float = 0.05  # share of the words
    test: float = 0.1

    def documents(self):
        """Yields documents, language after language."""
        texts, held_by = {}, {}  # words of each text; the split of the documents that hold a word, train before others
        for document in self.source.documents():
            own = texts.setdefault(document.text, [])
            split = document.split or split_of(document.data, self.source.validation, self.source.test)
            for word in dict.fromkeys(WORD.findall(document.data.decode("utf-8", "replace"))):
                if word not in held_by:
                    own.append(word)
                held_by[word] = "train" if split == "train" else held_by.get(word, split)
        parts = {
            word: split_of(word.encode(), self.validation, self.test) if split == "train" else split
            for word, split in held_by.items()
        }
        for number, (text, found) in enumerate(texts.items()):
            order, rng = sorted(found), np.random.default_rng(number)
            order = [order[i] for i in rng.permutation(len(order))[: self.most]]
            for split in ("train", "validation", "test"):
                own = [word for word in order if parts[word] == split]
                if not own:
                    raise UserError(f"The text {text!r} has {len(order)} different words, none of them for {split}.")
                for at in range(0, len(own), self.words):
                    data = " ".join(own[at : at + self.words]).encode()
                    yield Document(f"words of {text} {split} {at}", data, split, text)

    def fingerprint(self):
        """Names the baked words."""
        source = self.source
        return f"words-{self.words}-{self.most}-{source.validation}-{source.test}-{source.fingerprint()}"
