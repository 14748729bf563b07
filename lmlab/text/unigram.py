"""Byte-level Unigram tokenizers (Kudo 2018): the likeliest cut under a model of independent pieces."""

import dataclasses
import pathlib
from collections.abc import Iterable

import tokenizers

from lmlab.errors import UserError
from lmlab.text.bpe import BPETokenizer, byte_alphabet, valid_texts


@dataclasses.dataclass(frozen=True)
class Unigram:
    """Recipe: a byte-level Unigram model of at most `vocab_size` ids (BOS and EOS among them), within the pre-tokens of
    GPT-2, trained on the train split."""

    vocab_size: int
    bytes_per_token: float = 4.0  # nominal

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe, fit for a folder name."""
        return f"unigram{self.vocab_size}"

    def train(self, documents: Iterable[bytes]) -> BPETokenizer:
        """Learn the pieces; fewer if the documents hold no more. UserError under 258 ids."""
        if self.vocab_size < 258:
            raise UserError(f"A Unigram vocabulary needs at least 258 ids, not {self.vocab_size}.")
        library = tokenizers.Tokenizer(tokenizers.models.Unigram())
        library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.UnigramTrainer(
            vocab_size=self.vocab_size - 2, initial_alphabet=byte_alphabet(), show_progress=False
        )
        library.train_from_iterator((text for data in documents for text in valid_texts(data)), trainer)
        return BPETokenizer(library.to_str(), self.bytes_per_token)

    def load(self, path: str | pathlib.Path) -> BPETokenizer:
        """Read what this recipe trained."""
        return BPETokenizer.load(path, self.bytes_per_token)
