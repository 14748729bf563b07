"""Text unlike that which a model was trained on: characters edited at rising rates, and another corpus."""

import dataclasses
from typing import Any

from lmlab.data.bake import stream_of
from lmlab.data.corpora import documents_of
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import beginnings, bits_per_byte
from lmlab.evaluation.perturbations import edited


@dataclasses.dataclass(frozen=True)
class CharacterEdits:
    """Bits per byte of excerpts of a split, `max_bytes` in all, in which each character is edited with a probability, as
    asked of HLM (arXiv 2305.14571): per byte of the edited text, or of its hidden words."""

    split: str = "test"
    max_bytes: int = 200_000
    rates: tuple = (0.1, 0.2, 0.3, 0.4)
    seed: int = 0

    def __call__(self, model, params, data):
        """{"edits_0", "edits_10", ...: bits per byte at so many %}."""
        texts, tokenizer = beginnings(data.baked.documents(self.split), self.max_bytes), data.baked.tokenizer

        def score(rate):
            stream = stream_of(edited(texts, rate, self.seed), tokenizer)
            return bits_per_byte(model, params, data.windows_of(stream), data)[0]

        return {f"edits_{round(100 * rate)}": score(rate) for rate in (0.0, *self.rates)}


@dataclasses.dataclass(frozen=True)
class OtherCorpus:
    """Bits per byte of excerpts of another corpus' split, `max_bytes` in all, with the tokenizer of the model's own."""

    name: str
    corpus: Any
    max_bytes: int = 200_000
    split: str = "test"

    def check(self, run):
        """UserError unless the corpus has such a split."""
        self._texts()

    def __call__(self, model, params, data):
        """{`name`: bits per byte}."""
        windows = data.windows_of(stream_of(self._texts(), data.baked.tokenizer))
        return {self.name: bits_per_byte(model, params, windows, data)[0]}

    def _texts(self):
        texts = [text for split, text, _ in documents_of(self.corpus) if split == self.split]
        if not texts:
            raise UserError(f"None of the documents of the other corpus, {self.name}, falls into its {self.split} split.")
        return beginnings(texts, self.max_bytes)
