"""Are compounds split where their constituents meet, and what does a tokenizer gain that is trained on split words?"""

import dataclasses
import re
from typing import Any

import numpy as np

from lmlab.data.compounds import LETTERS, Compounds, word_counts
from lmlab.data.corpora import StandardLibrary
from lmlab.data.infilling import byte_places
from lmlab.decoding.hyphens import decompound
from lmlab.evaluation.study import Study
from lmlab.text.bpe import BPE
from lmlab.text.compounds import HYPHEN, FrequencySplitter, hyphenated, is_hard, joined, seams


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a splitter is tried on: up to `most` held-out words of `compounds`, and tokenizers of `recipe` trained on the
    first `max_bytes` of `text`. `frequent`: how many of the text's commonest words of six letters or more are split for
    the second tokenizer (CompoundPiece splits all)."""

    compounds: Compounds = Compounds()
    text: Any = StandardLibrary()
    recipe: Any = BPE(1024)
    max_bytes: int = 1_000_000
    frequent: int = 2000
    most: int = 1000

    def __call__(self, split, part="test"):
        """`split`: words (bytes) -> the same with hyphens; `part`: the split of `compounds` that is asked. Returns, in
        % of words: "right": whole words right, and of them "right_compounds", "right_simple", and of the compounds
        "right_easy", "right_hard"; "hard": compounds with a token across a seam, of a tokenizer of the text as it is,
        and "hard_pieces", of one whose training text has its words split, which reads words that are not; "tokens",
        "tokens_pieces": of a compound. What there are no words for is left out."""
        words = self.compounds.split(part, self.most)
        right = np.array([a == b for a, b in zip(split([joined(w) for w in words]), words, strict=True)])
        documents = self._documents()
        plain, pieces = (self.recipe.train(each) for each in (documents, self._split(documents, split)))
        compound = np.array([HYPHEN in word for word in words])
        hard, of_pieces = (np.array([is_hard(word, each) for word in words]) for each in (plain, pieces))
        count = lambda each: np.array([len(each.encode(b" " + joined(word))) for word in words])  # noqa: E731
        values = {
            "right": 100 * right,
            "right_compounds": 100 * right[compound],
            "right_simple": 100 * right[~compound],
            "right_easy": 100 * right[compound & ~hard],
            "right_hard": 100 * right[compound & hard],
            "hard": 100 * hard[compound],
            "hard_pieces": 100 * of_pieces[compound],
            "tokens": count(plain)[compound],
            "tokens_pieces": count(pieces)[compound],
        }
        return {name: float(each.mean()) for name, each in values.items() if len(each)}

    def _documents(self):
        documents, size = [], 0
        for document in self.text.documents():
            documents.append(document.data[: max(0, self.max_bytes - size)])
            size += len(documents[-1])
            if size >= self.max_bytes:
                break
        return documents

    def _split(self, documents, split):
        """The documents with a line end, over which no token reaches, at every seam of the commonest words that lies
        between two characters."""
        counts = word_counts(self.text)
        common = [w for w in sorted(counts, key=lambda w: (-counts[w], w)) if 6 <= len(w) <= 30][: self.frequent]
        found = zip(common, map(_between_characters, split(common)), strict=True)
        parts = {w.decode(): s.decode().split("-") for w, s in found if HYPHEN in s}

        def cut(match):
            word, pieces = match[0], []
            for part in parts.get(word.lower(), [word]):
                pieces.append(word[len("".join(pieces)) :][: len(part)])
            return "\n".join(pieces)

        texts = (data.decode("utf-8", "ignore") for data in documents)
        return [re.sub(f"{LETTERS}{{6,}}", cut, text).encode() for text in texts]


def _between_characters(word):
    """The word without those of its hyphens that cut a UTF-8 character in two."""
    places = set(byte_places(joined(word)).tolist())
    return hyphenated(joined(word), [at for at in seams(word) if at in places])


@dataclasses.dataclass(frozen=True)
class Decompounding:
    """A trained encoder-decoder on a `Trial`."""

    trial: Trial = Trial()
    split: str = "test"

    def __call__(self, model, params, data):
        """What `Trial` returns."""
        tokenizer = data.baked.tokenizer
        return self.trial(lambda words: decompound(model, params, words, tokenizer, check=data.check), self.split)


@dataclasses.dataclass(frozen=True)
class ByFrequency(Study):
    """`FrequencySplitter` on a `Trial`, its frequencies those of the trial's text; `corpus` stands for the trial's
    compounds."""

    trial: Trial = Trial()

    def measure(self):
        """What `Trial` returns."""
        splitter = FrequencySplitter(word_counts(self.trial.text))
        trial = dataclasses.replace(self.trial, compounds=self.corpus)
        return trial(lambda words: [splitter.split(word) for word in words])
