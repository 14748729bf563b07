"""Whole words are hidden, and every token of them is to be named in its place: BERT's task for any kind of tokens."""

import dataclasses

import numpy as np

from lmlab.data.batches import Windows
from lmlab.data.corruptions import EVALUATION
from lmlab.errors import UserError

BLANK = b" \t\n\r\x0b\x0c"


@dataclasses.dataclass(frozen=True)
class MaskedWords:
    """Each word of a window is chosen with probability `share`, and its tokens are replaced by one mask id, the first id
    above the tokenizer's (Devlin et al. 2019, with whole words; HLM, arXiv 2305.14571).

    A word is a run of tokens up to white space, or up to the symbol that ends it. White space, symbols, BOS and EOS are
    never hidden. How many tokens a word has stays visible. A hidden token covers its bytes of the word: the space that a
    subword may begin with is not counted, so that a word has as many bytes in subwords as in bytes.
    """

    share: float = 0.15

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise UserError(f"The share of words to mask lies between 0 and 1; it is {self.share}.")

    @property
    def continues(self):
        """Such a model fills gaps; it does not continue a text."""
        return False

    def extra_ids(self, length):
        """The mask."""
        return 1

    def windows(self, stream, length, tokenizer):
        """`MaskedWindows`."""
        return MaskedWindows(stream, length, tokenizer, self.share)

    def bytes_per_window_token(self, stream, tokenizer):
        """Source bytes per token that is read. Those of hidden words have fewer: the space before is not hidden."""
        return stream.bytes_per_token(tokenizer)

    def shapes(self, length):
        """{array of a batch: its shape without the rows}."""
        return dict.fromkeys(("tokens", "targets", "segment_ids", "target_bytes", "weights"), (length,))

    def flops(self, model, length, ratios=()):
        """Forward FLOPs per token of the window by part."""
        return model.flops(length, ratios)


def word_lengths(tokenizer):
    """Bytes per id without the white space around them, int32 [vocab_size]: 0 where there is nothing else."""
    each = [tokenizer.token_bytes(token).strip(BLANK) for token in range(tokenizer.vocab_size)]
    return np.array([len(data) for data in each], np.int32)


class MaskedWindows:
    """Windows of `length` tokens, end to end over a stream; window i covers the tokens [i L, i L + L)."""

    def __init__(self, stream, length, tokenizer, share):
        self.stream, self._share = stream, share
        self._windows, self._mask = Windows(stream, length, tokenizer), tokenizer.vocab_size
        each = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self._begins = np.array([data[:1] in BLANK for data in each])  # with white space, or stands for nothing
        self._ends = np.array([data[-1:] in BLANK for data in each])
        self._lengths = word_lengths(tokenizer)
        self._blank = self._lengths == 0
        ends = np.append(stream.starts[1:], len(stream.tokens)) - 1
        self._marks = np.sort(np.concatenate([stream.starts, ends]))  # where BOS and EOS stand

    def __len__(self):
        return len(self._windows)

    def batch(self, indices, draws=None):
        """{"tokens", "targets", "segment_ids", "target_bytes": int32 [B, L], "weights": float32 [B, L]}. `targets` are
        the tokens as they were, and count where they are hidden. An index of -1 is an empty row of weight 0."""
        batch = self._windows.batch(indices)
        ids_BL, L = batch["tokens"], batch["tokens"].shape[1]
        hidden_BL = np.zeros(ids_BL.shape, bool)
        for row, index in enumerate(np.asarray(indices, np.int64)):
            if index >= 0:
                rng = np.random.default_rng((EVALUATION, int(index)) if draws is None else draws[row])
                hidden_BL[row] = self._hidden(ids_BL[row], self._special(index, L), rng)
        hidden_BL &= batch["segment_ids"] > 0
        return {
            "tokens": np.where(hidden_BL, self._mask, ids_BL),
            "targets": ids_BL,
            "segment_ids": batch["segment_ids"],
            "weights": hidden_BL.astype(np.float32),
            "target_bytes": np.where(hidden_BL, self._lengths[ids_BL], 0),
        }

    def _special(self, index, L):
        """Which tokens of a window are BOS or EOS."""
        first, last = np.searchsorted(self._marks, [index * L, index * L + L])
        special_L = np.zeros(L, bool)
        special_L[self._marks[first:last] - index * L] = True
        return special_L

    def _words(self, ids_L, special_L):
        """Number of the word that each token is of, rising; what is never hidden is a word of its own."""
        cut_L = special_L | self._begins[ids_L]
        cut_L[1:] |= special_L[:-1] | self._ends[ids_L[:-1]]
        return np.cumsum(cut_L)

    def _hidden(self, ids_L, special_L, rng):
        """Which tokens of a row are hidden."""
        word_L = self._words(ids_L, special_L)
        chosen = rng.random(word_L[-1] + 1) < self._share
        return chosen[word_L] & ~self._blank[ids_L] & ~special_L


@dataclasses.dataclass(frozen=True)
class MaskedSubwords(MaskedWords):
    """Words of bytes are hidden, and their subwords are to be named: the first in the place of the word's first byte, and
    so on, for a word has no fewer bytes than subwords (Byte2Word, arXiv 2211.12677). For `WordsOfSubwords`.

    They are the subwords that stand in the text: behind a space, the first one begins with it. A space that is a subword
    of its own is not asked for, as it is not hidden from a model that reads subwords.

    Words that begin before the row or end behind it are never hidden.
    """

    def windows(self, stream, length, tokenizer):
        """`MaskedSubwordWindows`."""
        return MaskedSubwordWindows(stream, length, tokenizer, self.share)


class MaskedSubwordWindows(MaskedWindows):
    """`MaskedWindows` whose targets are subwords."""

    def __init__(self, stream, length, tokenizer, share):
        super().__init__(stream, length, tokenizer, share)
        self._subwords, self._symbol = tokenizer.subwords, tokenizer.vocab_size - tokenizer.symbols
        self._subword_lengths = word_lengths(self._subwords)

    def batch(self, indices, draws=None):
        """As of `MaskedWindows`; `targets` count at the first positions of a hidden word, one per subword."""
        batch = super().batch(indices, draws)
        bytes_BL, hidden_BL = batch["targets"], batch["weights"] > 0
        edges = np.diff(np.pad(hidden_BL, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        rows, starts = np.nonzero(edges == 1)
        ends = np.nonzero(edges == -1)[1]
        words = [bytes_BL[r, a:b].astype(np.uint8).tobytes() for r, a, b in zip(rows, starts, ends, strict=True)]
        places = np.asarray(indices, np.int64)[rows] * bytes_BL.shape[1] + starts
        words = [b" " * self._behind_space(place) + word for place, word in zip(places, words, strict=True)]
        batch |= {name: np.zeros_like(batch[name]) for name in ("targets", "weights", "target_bytes")}
        for r, a, ids in zip(rows, starts, self._subwords.encode_batch(words), strict=True):
            ids = ids[self._subword_lengths[ids] > 0]
            at = slice(a, a + len(ids))
            batch["targets"][r, at] = ids
            batch["weights"][r, at] = 1
            batch["target_bytes"][r, at] = self._subword_lengths[ids]
        return batch

    def _behind_space(self, place):
        """Whether the byte before a place of the stream is a space; symbols stand for no byte."""
        tokens, place = self.stream.tokens, place - 1
        while tokens[place] >= self._symbol:
            place -= 1
        return int(tokens[place] == 32)

    def _hidden(self, ids_L, special_L, rng):
        hidden_L = super()._hidden(ids_L, special_L, rng)
        ends = np.flatnonzero((ids_L == self._symbol) | special_L)
        inside = np.zeros(len(ids_L), bool)
        if len(ends):
            inside[ends[0] : ends[-1] + 1] = True
        return hidden_L & inside
