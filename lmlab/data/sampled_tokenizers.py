"""Next-token prediction under a tokenizer that is drawn anew for every batch (ZeTT)."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from lmlab.data.batches import Windows
from lmlab.data.corruptions import EVALUATION, NextTokens
from lmlab.errors import UserError
from lmlab.text.bpe import BPETokenizer
from lmlab.text.sampled import Sampler, vocabulary_of
from lmlab.text.segmentations import Splits

_VOCABULARY, _OLD = 1, 2  # what is drawn


@dataclasses.dataclass(frozen=True)
class SampledTokenizers(NextTokens):
    """The text of a window, written by a tokenizer of `sampler` that the whole batch shares; it is made from `texts`
    windows, drawn from the train split.

    Batches hold besides: "pieces", how the run's own tokenizer writes each of the sampled ids, at most `pieces` of
    them; and `old` tokens of its own ("old_tokens"), half of them as they are and half written in up to `pieces`
    shorter ones ("old_pieces"). Each row holds its part of all three. `rows`: the run's batch_size. A row of L
    positions reads L / `room` tokens of the run's tokenizer; what does not fit is left out, in an evaluation too, and
    counted ("dropped_bytes", at the row's last position). An evaluation's tokenizer is drawn without noise, always
    alike.
    """

    sampler: Sampler
    rows: int
    pieces: int = 7
    texts: int = 64
    old: int = 256
    room: float = 1.25

    reads_train = True  # windows of any split need the train split's text

    def __post_init__(self):
        if min(self.rows, self.texts) < 1 or self.pieces < 2 or self.room < 1:
            raise UserError("Sampled tokenizers need rows, texts and room of at least 1, and at least 2 pieces.")
        if self.sampler.vocab_size % self.rows or self.old % self.rows or not self.old:
            raise UserError(f"The {self.rows} rows of a batch must divide both the sampled ids and the old tokens.")

    @property
    def continues(self):
        """Such a model has no tokenizer of its own to write with."""
        return False

    def text_tokens(self, length):
        """Tokens of the stream that a row of `length` positions reads."""
        return max(1, int(length / self.room))

    def windows(self, stream, length, tokenizer, train=None):
        """`SampledWindows`, of tokenizers made from the stream `train`; None: `stream` is the train split."""
        return SampledWindows(stream, length, tokenizer, self, stream if train is None else train)

    def shapes(self, length):
        """{array of a batch: its shape without the rows}."""
        return super().shapes(length) | {
            "pieces": (self.sampler.vocab_size // self.rows, self.pieces),
            "old_pieces": (self.old // self.rows, self.pieces),
            "old_tokens": (self.old // self.rows,),
            "dropped_bytes": (length,),
        }

    def flops(self, model, length, ratios=()):
        """Forward FLOPs per position by part, the hypernetwork's shared out among those of the batch."""
        shared = model.hypernetwork_flops() / (self.rows * length)
        return model.flops(length, ratios) | {"hypernetwork": shared}


class Drawn(NamedTuple):
    """What a batch is read with."""

    tokenizer: BPETokenizer
    pieces: np.ndarray  # int32 [ids, P]
    old_tokens: np.ndarray  # int32 [old]
    old_pieces: np.ndarray  # int32 [old, P]


class SampledWindows(Windows):
    """`Windows` in rows of `length` positions, written by drawn tokenizers.

    Every byte is covered by one target of one window, or left out and counted.
    """

    def __init__(self, stream, length, tokenizer, corruption, train):
        super().__init__(stream, corruption.text_tokens(length), tokenizer)
        self._positions, self._tokenizer, self._of = length, tokenizer, corruption
        self._train = Windows(train, self.length, tokenizer)
        self._splits = Splits(tokenizer)
        self._divisible = np.array([i for i in range(tokenizer.vocab_size) if self._splits.of(i)])
        self.drawn = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, seed, step):
        """`Drawn` of a step of training, a pure function of both; of an evaluation, where the seed is `EVALUATION`."""
        rng, of = np.random.default_rng((seed, step, _VOCABULARY)), self._of
        chosen = rng.integers(len(self._train), size=of.texts)
        texts = [self._tokenizer.decode(tokens) for i in chosen for *_, tokens in self._train.documents(int(i))]
        tokenizer = of.sampler.draw(texts, None if seed == EVALUATION else rng)
        rng = np.random.default_rng((seed, step, _OLD))
        old_tokens = rng.integers(self._tokenizer.vocab_size, size=of.old).astype(np.int32)
        old_tokens[1::2] = rng.choice(self._divisible, len(old_tokens[1::2]))
        old_pieces = np.full((of.old, of.pieces), -1, np.int32)
        for i, token in enumerate(old_tokens):
            ids, _ = self._splits.split([token], int(rng.integers(1, of.pieces)) if i % 2 else 0, rng)
            old_pieces[i, : len(ids)] = ids  # a split adds one
        return Drawn(tokenizer, vocabulary_of(self._tokenizer, tokenizer, of.pieces), old_tokens, old_pieces)

    def batch(self, indices, draws=None):
        """See `SampledTokenizers`; an index of -1 is a row without text. UserError for rows of several batches."""
        rows = self._of.rows
        if draws is None:
            (seed, step), at = (EVALUATION, 0), np.arange(len(indices)) % rows
        else:
            numbers = np.array([number for _, number in draws])
            seed, step, at = draws[0][0], int(numbers[0]) // rows, numbers % rows
            if np.any(numbers // rows != step):
                raise UserError(f"A batch has more than the {rows} rows that share a tokenizer: set corruption.rows.")
        drawn = self.drawn(seed, step)
        part = lambda x: np.stack([x.reshape(rows, -1, *x.shape[1:])[r] for r in at])  # noqa: E731
        written = self._write(np.asarray(indices, np.int64), drawn.tokenizer)
        return written | {name: part(getattr(drawn, name)) for name in ("pieces", "old_pieces", "old_tokens")}

    def _write(self, indices, tokenizer):
        L, lengths = self._positions, tokenizer.token_lengths()
        batch = {
            name: np.zeros((len(indices), L), np.float32 if name == "weights" else np.int32)
            for name in (*NextTokens().shapes(L), "dropped_bytes")
        }
        rows = [self.documents(int(i)) if i >= 0 else [] for i in indices]
        # A window that goes on with a document begins with the token that the one before ends with. It is read, not
        # asked for, and written by itself, so that no new token holds bytes of it and of the next.
        texts = [part for row in rows for _, begins, _, tokens in row for part in np.split(tokens, [int(not begins)])]
        encoded = iter(tokenizer.encode_batch([self._tokenizer.decode(tokens) for tokens in texts]))
        for row, of in enumerate(rows):
            ids, segments, asked = [], [], []
            for number, (_, begins, ends, _) in enumerate(of):
                parts = ([tokenizer.bos] * begins, next(encoded), next(encoded), [tokenizer.eos] * ends)
                ids += parts
                segments.append(np.full(sum(map(len, parts)), number + 1))
                asked += [np.full(len(part), is_asked) for part, is_asked in zip(parts, (False, False, True, True))]
            if not of:
                continue
            ids, segments, asked = np.concatenate(ids).astype(np.int32), np.concatenate(segments), np.concatenate(asked)
            n = min(L, len(ids) - 1)
            targets, covered = np.where(asked, ids, 0), np.where(asked, lengths[ids], 0)
            batch["tokens"][row, :n], batch["targets"][row, :n] = ids[:n], targets[1 : n + 1]
            batch["segment_ids"][row, :n], batch["weights"][row, :n] = segments[:n], asked[1 : n + 1]
            batch["target_bytes"][row, :n] = covered[1 : n + 1]
            batch["dropped_bytes"][row, -1] = covered[n + 1 :].sum()
        return batch
