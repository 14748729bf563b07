"""Words with a character too few, too many or in the wrong place, the originals to be named: CharBERT's Noisy LM."""

import dataclasses

import numpy as np

from lmlab.data.corruptions import EVALUATION
from lmlab.data.masked_words import BLANK, MaskedWindows, MaskedWords
from lmlab.errors import UserError

NOISE = 1  # behind a row's draw: what is misspelt does not move what is hidden
SHORTEST = 3  # characters of a word that is misspelt


def misspelt(word, rng):
    """`word` (bytes) with one character dropped, one letter inserted or two neighbours swapped, each as likely; None
    for a word of fewer than three characters. White space around the word stays. A byte that is no UTF-8 is a character."""
    text, blank = word.decode("utf-8", "surrogateescape"), BLANK.decode()
    body = text.strip(blank)
    if len(body) < SHORTEST:
        return None
    start = text.index(body)
    unequal = [i for i in range(len(body) - 1) if body[i] != body[i + 1]]
    kind = rng.choice(("drop", "insert", "swap") if unequal else ("drop", "insert"))
    if kind == "drop":
        i = rng.integers(len(body))
        body = body[:i] + body[i + 1 :]
    elif kind == "insert":
        i = rng.integers(len(body) + 1)
        body = body[:i] + chr(rng.integers(ord("a"), ord("z") + 1)) + body[i:]
    else:
        i = rng.choice(unequal)
        body = body[:i] + body[i + 1] + body[i] + body[i + 2 :]
    text = text[:start] + body + text[len(text.rstrip(blank)) :]
    return text.encode("utf-8", "surrogateescape")


@dataclasses.dataclass(frozen=True)
class NoisyWords(MaskedWords):
    """`MaskedWords`; and of the words that are not hidden each is misspelt with probability `noise`, and tokenized
    again (Noisy LM; CharBERT, arXiv 2011.01513). Its original tokens are to be named in the places of the new ones, as
    far as there are places; they cover no byte, so that bits per byte are those of the hidden words.

    Without draws, as in evaluation, nothing is misspelt. What no longer fits a row falls off its end.
    """

    noise: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.noise <= 1:
            raise UserError(f"The share of words to misspell lies between 0 and 1; it is {self.noise}.")

    def windows(self, stream, length, tokenizer):
        """`NoisyWindows`."""
        return NoisyWindows(stream, length, tokenizer, self.share, self.noise)


@dataclasses.dataclass(frozen=True)
class MisspeltWords(NoisyWords):
    """`NoisyWords` to evaluate with: misspelt without draws too, and a row of L positions reads only L / 2 tokens, so
    that it has room for what misspelt words fall into: the same words are hidden whatever `noise` is."""

    def windows(self, stream, length, tokenizer):
        """`MisspeltWindows`."""
        return MisspeltWindows(stream, max(1, length // 2), tokenizer, self.share, self.noise, length)


class NoisyWindows(MaskedWindows):
    """`MaskedWindows` of `length` tokens of the stream in rows of as many positions, or of `positions`."""

    def __init__(self, stream, length, tokenizer, share, noise, positions=None):
        super().__init__(stream, length, tokenizer, share)
        self._tokenizer, self._noise, self._positions = tokenizer, noise, positions or length

    def batch(self, indices, draws=None):
        """As of `MaskedWindows`; `targets` count where words are hidden and, with `target_bytes` of 0, misspelt."""
        batch = super().batch(indices, draws)
        return batch if draws is None else self._misspell(batch, indices, draws)

    def _misspell(self, batch, indices, draws):
        found = [(row, *word) for row, index in enumerate(indices) if index >= 0
                 for word in self._chosen(batch, row, int(index), draws[row])]
        spelt = self._tokenizer.encode_batch([data for *_, data in found])
        noisy = {name: np.zeros((len(indices), self._positions), values.dtype) for name, values in batch.items()}
        for row in range(len(indices)):
            words = [(start, end, ids) for (r, start, end, _), ids in zip(found, spelt, strict=True) if r == row]
            for name, values in noisy.items():
                part = _replaced(name, batch[name][row], batch["targets"][row], words)[: self._positions]
                values[row, : len(part)] = part
        return noisy

    def _chosen(self, batch, row, index, draw):
        """(first token, token behind the last, new bytes) of the words of a row that are misspelt."""
        count = int(np.count_nonzero(batch["segment_ids"][row]))
        ids, hidden = batch["targets"][row][:count], batch["weights"][row][:count] > 0
        special = self._special(index, batch["targets"].shape[1])[:count]
        word = self._words(ids, special)
        starts = np.flatnonzero(np.diff(word, prepend=-1))
        ends, rng = np.append(starts[1:], count), np.random.default_rng((*draw, NOISE))
        chosen = (rng.random(len(starts)) < self._noise) & ~(hidden | special | self._blank[ids])[starts]
        for start, end in zip(starts[chosen], ends[chosen], strict=True):
            data = misspelt(b"".join(self._tokenizer.token_bytes(int(t)) for t in ids[start:end]), rng)
            if data is not None:
                yield start, end, data


def _replaced(name, values_L, ids_L, words):
    """An array of a row, with what it is to be at misspelt words in place of what it was; `ids_L`: the originals."""
    parts, before = [], 0
    for start, end, spelt in words:
        asked = min(end - start, len(spelt))
        new = np.zeros(len(spelt), values_L.dtype)
        if name == "tokens":
            new[:] = spelt
        elif name == "targets":
            new[:asked] = ids_L[start : start + asked]
        elif name == "weights":
            new[:asked] = 1
        elif name == "segment_ids":
            new[:] = values_L[start]
        parts += [values_L[before:start], new]
        before = end
    return np.concatenate([*parts, values_L[before:]])


class MisspeltWindows(NoisyWindows):
    """`NoisyWindows` whose rows are drawn by their number where no draws are given."""

    def batch(self, indices, draws=None):
        """As of `NoisyWindows`."""
        return super().batch(indices, [(EVALUATION, max(int(i), 0)) for i in indices] if draws is None else draws)
