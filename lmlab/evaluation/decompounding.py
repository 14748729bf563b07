"""Are compounds split where their constituents meet, and what does a tokenizer gain that is trained on split words?"""

import dataclasses
import re
from typing import Any

import numpy as np

from lmlab.data.compounds import LETTERS, Compounds, word_counts
from lmlab.data.corpora import StandardLibrary
from lmlab.decoding.hyphens import decompound
from lmlab.evaluation.study import Study
from lmlab.text.bpe import BPE
from lmlab.text.compounds import HYPHEN, FrequencySplitter, is_hard, joined


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

    def __call__(self, split):
        """`split`: words (bytes) -> the same with hyphens. Returns, in % of words: "right": whole words right, and of
        them "right_compounds", "right_simple", and of the compounds "right_easy", "right_hard"; "hard": compounds with a
        token across a seam, of a tokenizer of the text as it is, and "hard_pieces", of one whose training text has its
        words split, which reads words that are not; "tokens", "tokens_pieces": of a compound."""
        words = self.compounds.split("test", self.most)
        right = np.array([a == b for a, b in zip(split([joined(w) for w in words]), words, strict=True)])
        documents = self._documents()
        plain, pieces = (self.recipe.train(each) for each in (documents, self._split(documents, split)))
        compound = np.array([HYPHEN in word for word in words])
        hard, of_pieces = (np.array([is_hard(word, each) for word in words]) for each in (plain, pieces))
        count = lambda each: np.array([len(each.encode(b" " + joined(word))) for word in words])  # noqa: E731
        return {
            "right": _percent(right),
            "right_compounds": _percent(right[compound]),
            "right_simple": _percent(right[~compound]),
            "right_easy": _percent(right[compound & ~hard]),
            "right_hard": _percent(right[compound & hard]),
            "hard": _percent(hard[compound]),
            "hard_pieces": _percent(of_pieces[compound]),
            "tokens": float(count(plain)[compound].mean()),
            "tokens_pieces": float(count(pieces)[compound].mean()),
        }

    def _documents(self):
        documents, size = [], 0
        for document in self.text.documents():
            documents.append(document.data[: max(0, self.max_bytes - size)])
            size += len(documents[-1])
            if size >= self.max_bytes:
                break
        return documents

    def _split(self, documents, split):
        """The documents with a line end, over which no token reaches, at every seam of the commonest words."""
        counts = word_counts(self.text)
        common = [w for w in sorted(counts, key=lambda w: (-counts[w], w)) if 6 <= len(w) <= 30][: self.frequent]
        parts = {w.decode(): s.decode().split("-") for w, s in zip(common, split(common), strict=True) if HYPHEN in s}

        def cut(match):
            word, pieces = match[0], []
            for part in parts.get(word.lower(), [word]):
                pieces.append(word[len("".join(pieces)) :][: len(part)])
            return "\n".join(pieces)

        texts = (data.decode("utf-8", "ignore") for data in documents)
        return [re.sub(f"{LETTERS}{{6,}}", cut, text).encode() for text in texts]


def _percent(values):
    return 100 * float(np.mean(values)) if len(values) else 0.0


@dataclasses.dataclass(frozen=True)
class Decompounding:
    """A trained encoder-decoder on a `Trial`."""

    trial: Trial = Trial()
    split: str = "test"

    def __call__(self, model, params, data):
        """What `Trial` returns."""
        tokenizer = data.baked.tokenizer
        return self.trial(lambda words: decompound(model, params, words, tokenizer, check=data.check))


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
