"""Tokenizers drawn at random from texts, and how an old tokenizer writes the tokens of a new one (ZeTT, Minixhofer et
al. 2024, "Zero-Shot Tokenizer Transfer", section 3)."""

import collections
import dataclasses
import heapq
import math
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers

from lmlab.errors import UserError
from lmlab.text.bpe import BPETokenizer, byte_alphabet
from lmlab.text.merges import count_words

LETTERS = byte_alphabet()
RARE = 1e-9  # frequency of what was not seen


def pieces_of(tokenizer, tokens: Sequence[bytes], most: int) -> np.ndarray:
    """How `tokenizer` writes each of these byte strings: its first `most` ids, -1 behind them, int32 [n, most]."""
    result = np.full((len(tokens), most), -1, np.int32)
    for row, ids in zip(result, tokenizer.encode_batch(tokens), strict=True):
        row[: len(ids)] = ids[:most]
    return result


def vocabulary_of(old, new, most: int) -> np.ndarray:
    """`pieces_of` every id of the tokenizer `new`; its BOS and EOS are written as the old ones."""
    result = pieces_of(old, [new.token_bytes(i) for i in range(new.vocab_size)], most)
    for own, theirs in ((new.bos, old.bos), (new.eos, old.eos)):
        result[own] = -1
        result[own, 0] = theirs
    return result


def count_substrings(texts: Iterable[bytes], longest: int) -> collections.Counter:
    """{substring of a pre-token, of 2 to `longest` bytes: how often it occurs}."""
    counts = collections.Counter()
    for word, count in count_words(texts).items():
        for begin in range(len(word) - 1):
            for end in range(begin + 2, min(len(word), begin + longest) + 1):
                counts[word[begin:end]] += count
    return counts


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws Unigram tokenizers of `vocab_size` ids: all bytes, the most frequent substrings of the texts' pre-tokens
    of up to `longest` bytes, BOS and EOS.

    Frequencies, which are the scores too, get normal noise whose size is drawn anew for each tokenizer, from a
    log-normal law of median `noise` and deviation `spread`: most tokenizers follow their texts and some hardly do.
    (The paper's parameters of the noise are known here as 1e-5 and 4; that they mean this is this code's reading.)
    """

    vocab_size: int
    longest: int = 16
    noise: float = 1e-5
    spread: float = 4.0

    def __post_init__(self):
        if self.vocab_size < 258 or self.longest < 2:
            raise UserError("A sampled tokenizer has 258 ids or more (256 bytes, BOS and EOS) and tokens of two bytes.")
        if self.noise < 0 or self.spread < 0:
            raise UserError("Noise of sampled tokenizers is at least 0.")

    def draw(self, texts: Iterable[bytes], rng=None) -> BPETokenizer:
        """A tokenizer for these texts; without `rng`, one without noise. UserError for texts of too few substrings."""
        texts = list(texts)
        counts = count_substrings(texts, self.longest)
        wanted = self.vocab_size - 258
        if len(counts) < wanted:
            raise UserError(f"The texts are too few for {self.vocab_size} ids: they give {len(counts) + 258}.")
        single = np.bincount(np.frombuffer(b"".join(texts), np.uint8), minlength=256)
        names = sorted(counts)  # in an order that does not depend on the texts', so that a draw is a function of rng
        size = max(1, sum(counts.values()) + int(single.sum()))
        scores = np.array([counts[name] for name in names]) / size
        if rng is not None and self.noise:
            size_of_noise = self.noise * math.exp(self.spread * rng.standard_normal())
            scores = scores + size_of_noise * rng.standard_normal(len(names))
        chosen = heapq.nsmallest(wanted, range(len(names)), key=lambda i: (-scores[i], i))
        vocabulary = [(letter, math.log(max(count / size, RARE))) for letter, count in zip(LETTERS, single)]
        for i in chosen:
            name = "".join(LETTERS[byte] for byte in names[i])
            vocabulary.append((name, math.log(max(float(scores[i]), RARE))))
        library = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary))
        library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = tokenizers.decoders.ByteLevel()
        return BPETokenizer(library.to_str())
