"""BPE in two stages: merges within words, then merges of what they gave across white space (superwords)."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers

from lmlab.errors import UserError
from lmlab.text.bpe import BPETokenizer, train_bpe_up_to
from lmlab.text.tokens import Tokens

_FIRST = 0xF0000  # private characters: one for every token of the first stage


@dataclasses.dataclass(frozen=True)
class SuperwordTokenizer(Tokens):
    """Documents are encoded by `words`, and `_superwords` merges the tokens, each of which it takes for a letter."""

    words: BPETokenizer
    definition: str = dataclasses.field(repr=False)

    @functools.cached_property
    def _library(self):
        return tokenizers.Tokenizer.from_str(self.definition)

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        vocabulary = sorted(self._library.get_vocab().items(), key=lambda item: item[1])
        joined = [b"".join(self.words.token_bytes(ord(c) - _FIRST) for c in token) for token, _ in vocabulary]
        return [*joined, b"", b""]

    def encode(self, data: bytes) -> np.ndarray:
        """Bytes to ids, int32 [n]."""
        return self.encode_batch([data])[0]

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """`encode` of every document."""
        letters = [_letters(ids) for ids in self.words.encode_batch(documents)]
        encodings = self._library.encode_batch_fast(letters, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]


def _letters(ids):
    return "".join(chr(_FIRST + i) for i in ids.tolist())


def train_superwords(documents: Iterable[bytes], vocab_size: int, words: int) -> SuperwordTokenizer:
    """Learn up to `words` ids within words, then merges across white space up to `vocab_size` ids, BOS and EOS among
    them.

    Documents are never merged across. UserError if `words` is not below `vocab_size`, or the documents are too few.
    """
    if not 258 <= words < vocab_size:
        raise UserError(f"Superwords need 258 <= words < vocab_size, not {words} and {vocab_size}.")
    documents = list(documents)
    first = train_bpe_up_to(documents, words)
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    alphabet = [chr(_FIRST + i) for i in range(first.vocab_size - 2)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 2, min_frequency=2, initial_alphabet=alphabet, show_progress=False,
        max_token_length=None, limit_alphabet=len(alphabet),
    )
    library.train_from_iterator(map(_letters, first.encode_batch(documents)), trainer)
    if library.get_vocab_size() < vocab_size - 2:
        raise UserError(f"The corpus is too small for {vocab_size} superwords: it yields {library.get_vocab_size() + 2}.")
    return SuperwordTokenizer(first, library.to_str())
