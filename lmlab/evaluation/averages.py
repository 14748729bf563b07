"""Models of different tokenizers as one, byte by byte."""

import dataclasses
import itertools
from typing import Any

import numpy as np

from lmlab.data.bake import bake
from lmlab.decoding.byte_ensembles import ByteEnsemble
from lmlab.decoding.exact_bytes import ExactBytes
from lmlab.errors import UserError
from lmlab.evaluation.exact_bytes import LEAST
from lmlab.evaluation.study import Study


@dataclasses.dataclass(frozen=True)
class Averages(Study):
    """Bits per byte of the first `size` bytes of `documents` test documents: of two models by their exact next-byte
    distributions, and of these averaged (Phan et al. 2024, arXiv 2410.09303, section 5). The two read one corpus and are
    trained for this. A byte that a model thinks impossible costs it 30 bits."""

    first: Any = None  # Runs
    second: Any = None
    documents: int = 32
    size: int = 100  # bytes

    def check(self):
        """UserError if the text is not there or too small for the tokenizers."""
        for run in (self.first, self.second):
            if run.corpus != self.corpus:
                raise UserError("Models that are averaged read one corpus, which is the study's.")
            bake(run.corpus, run.tokenizer)

    def precursors(self, directory=""):
        """The two."""
        return {name: (getattr(self, name), f"{directory}-{name}") for name in ("first", "second")}

    def reading(self, path):
        """This study, its models trained on the files at `path`."""
        return self._each(lambda run: run.reading(path))

    def seeded(self, seed):
        """This study, its models with another seed."""
        return dataclasses.replace(self._each(lambda run: run.seeded(seed)), seed=seed)

    def _each(self, change):
        first, second = change(self.first), change(self.second)
        return dataclasses.replace(self, corpus=first.corpus, first=first, second=second)

    def measure(self, first, second):
        """{"first_bpb", "second_bpb", "mixture_bpb": of their mean, "product_bpb": of their geometric mean, "gain": by how
        many per cent the mixture needs fewer bits than the better of the two}"""
        documents = itertools.islice(first[2].baked.documents("test"), self.documents)
        bits, count = dict.fromkeys(("first_bpb", "second_bpb", "mixture_bpb", "product_bpb"), 0.0), 0
        while group := [document[: self.size] for document in itertools.islice(documents, self.first.batch_size)]:
            one, other = (
                ExactBytes(model, params, data.baked.tokenizer, [b""] * len(group), self.size)
                for model, params, data in (first, second)
            )
            ways = (one, other, ByteEnsemble([one, other]), ByteEnsemble([one, other], product=True))
            for at in range(max(map(len, group))):
                there = [row for row, document in enumerate(group) if at < len(document)]
                true = [group[row][at] for row in there]
                for name, texts in zip(bits, ways, strict=True):
                    bits[name] -= float(np.log2(np.maximum(texts.next_bytes()[there, true], LEAST)).sum())
                ways[2].feed([document[at] if at < len(document) else None for document in group])
            count += sum(map(len, group))
        result = {name: value / count for name, value in bits.items()}
        best = min(result["first_bpb"], result["second_bpb"])
        return result | {"gain": 100 * (best - result["mixture_bpb"]) / best}
