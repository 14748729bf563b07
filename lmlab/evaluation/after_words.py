"""What a word costs behind one that the tokenizer writes in pieces, and behind one that is misspelt."""

import dataclasses
import math

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.text.multi_word import WORD

SHORTEST = 4  # letters of a word that is misspelt


@dataclasses.dataclass(frozen=True)
class AfterWords:
    """Bits per word of excerpts of one split, `max_bytes` in all, for any model whose targets tile the text.

    A word is a run of letters with the space before it. In a second text a share `noise` of the words has two
    neighbouring letters swapped, none directly behind another, so that the word behind each is the same in both texts.
    """

    split: str = "test"
    max_bytes: int = 100_000
    noise: float = 0.2
    seed: int = 0

    def __call__(self, model, params, data):
        """Bits per word: {"after_pieces": of the words behind those of two tokens or more, "after_clean": behind those
        that are misspelt in the second text, "after_typos": of the same words in that text; "typo_cost": between the
        two; "misspelt": words that are; "pieces": tokens per misspelt word}. What there is no word for is left out."""
        documents, tokenizer = list(data.baked.documents(self.split)), data.baked.tokenizer
        share = max(1, self.max_bytes // len(documents))
        texts = [document[:share] for document in documents]
        misspelt, behind_typos, behind_pieces, words = [], [], [], []
        rng, at = np.random.default_rng(self.seed), 0
        for text in texts:
            pairs = list(_neighbours(text))
            pieces = [len(ids) for ids in tokenizer.encode_batch([text[a:b] for a, b, _ in pairs])]
            behind_pieces += [(at + b, at + c) for (_, b, c), n in zip(pairs, pieces, strict=True) if n > 1]
            changed, last = bytearray(text), -1
            for a, b, c in pairs:
                if a < last or rng.random() >= self.noise or (swap := _swap(text[a:b], rng)) is None:
                    continue
                changed[a:b], last = swap, c
                words.append(swap)
                behind_typos.append((at + b, at + c))
            misspelt.append(bytes(changed))
            at += len(text)
        clean, noisy = (self._nats(model, params, data, found) for found in (texts, misspelt))
        result = {
            "after_pieces": clean(behind_pieces),
            "after_clean": clean(behind_typos),
            "after_typos": noisy(behind_typos),
            "pieces": sum(map(len, tokenizer.encode_batch(words))) / len(words) if words else None,
        }
        result = {name: value for name, value in result.items() if value is not None} | {"misspelt": len(words)}
        if result.keys() >= {"after_typos", "after_clean"}:
            result["typo_cost"] = result["after_typos"] - result["after_clean"]
        return result

    def _nats(self, model, params, data, texts):
        """Spans of all texts end to end -> bits per span, of those at whose edges targets end; None without any."""
        sizes, nats = [], []

        def see(batch, scores):
            asked_BL = batch["weights"] > 0
            sizes.append(batch["target_bytes"][asked_BL])
            nats.append(scores.nats_BL[asked_BL])

        bits_per_byte(model, params, data.windows_of(stream_of(texts, data.baked.tokenizer)), data, see)
        ends = np.cumsum(np.concatenate(sizes), dtype=np.int64)
        total = np.concatenate([[0.0], np.cumsum(np.concatenate(nats), dtype=np.float64)])

        def bits(spans):
            a, b = np.array(spans, np.int64).reshape(-1, 2).T
            first, last = np.searchsorted(ends, a, "right"), np.searchsorted(ends, b, "left")
            before = np.searchsorted(ends, a, "left")
            whole = (a == 0) | (ends[np.minimum(before, len(ends) - 1)] == a)
            whole &= ends[np.minimum(last, len(ends) - 1)] == b
            if not whole.any():
                return None
            return float(np.sum((total[last + 1] - total[first])[whole]) / math.log(2) / whole.sum())

        return bits


def _neighbours(text):
    """Yields (a, b, c): a word from a to b, and the next one from b, with one space before it, to c."""
    spans = [match.span() for match in WORD.finditer(text)]
    for (a, b), (start, c) in zip(spans, spans[1:]):
        if start == b and text[b : b + 1] == b" ":
            yield a, b, c


def _swap(word, rng):
    """The word with two neighbouring letters swapped; None if it is too short or there are none that differ."""
    first = len(word) - len(word.lstrip())
    places = [i for i in range(first, len(word) - 1) if word[i] != word[i + 1] and max(word[i : i + 2]) < 128]
    if len(word) - first < SHORTEST or not places:
        return None
    i = places[int(rng.integers(len(places)))]
    return word[:i] + word[i + 1 : i + 2] + word[i : i + 1] + word[i + 2 :]
