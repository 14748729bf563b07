"""A tokenizer made on other text than a model is trained on, as published tokenizers are."""

import dataclasses
from typing import Any

from lmlab.data.corpora import split_of


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """Recipe: `recipe`, trained on the train split of `corpus` whatever it is then used on."""

    recipe: Any
    corpus: Any

    @property
    def vocab_size(self):
        """The recipe's."""
        return self.recipe.vocab_size

    @property
    def bytes_per_token(self):
        """The recipe's, nominal."""
        return self.recipe.bytes_per_token

    @property
    def fingerprint(self):
        """Short name, fit for a folder name."""
        of = self.corpus
        return f"{self.recipe.fingerprint}-of-{of.fingerprint()}-{of.validation}-{of.test}"

    def annotation_shapes(self, length):
        """The recipe's."""
        return getattr(self.recipe, "annotation_shapes", lambda length: {})(length)

    def train(self, documents):
        """Learn from the corpus; `documents` are not looked at."""
        of = self.corpus
        texts = ((d.split or split_of(d.data, of.validation, of.test), d.data) for d in of.documents())
        return self.recipe.train(data for split, data in texts if split == "train")

    def load(self, path):
        """Read what this recipe trained."""
        return self.recipe.load(path)
