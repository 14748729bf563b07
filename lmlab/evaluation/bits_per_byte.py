"""Bits per byte over whole splits, clean and perturbed."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.batches import evaluation_batches
from lmlab.data.corruptions import NextTokens
from lmlab.evaluation.chunks import ChunkStatistics, at_bytes
from lmlab.evaluation.perturbations import PERTURBATIONS, perturb
from lmlab.evaluation.scoring import score


@dataclasses.dataclass(frozen=True)
class Data:
    """What an evaluator may look at."""

    baked: object  # lmlab.data.bake.Baked
    length: int  # tokens per row
    batch_size: int  # rows
    corruption: Any = NextTokens()
    place: Callable = lambda batch: batch  # a whole batch to where it is scored: its rows split over devices
    check: Callable = lambda: None  # called before every batch; raises when the run is asked to stop

    def windows(self, split):
        """Windows over a split."""
        return self.windows_of(self.baked.split(split))

    def windows_of(self, stream):
        """Windows over any `TokenStream`."""
        train = {"train": self.baked.split("train")} if getattr(self.corruption, "reads_train", False) else {}
        return self.corruption.windows(stream, self.length, self.baked.tokenizer, **train)


def bits_per_byte(model, params, windows, data, see=lambda batch, scores: None):
    """(bits per byte, source bytes, chunk starts per stage) of every window; `see` looks at every batch.

    bpb = sum of nats / (ln 2 * source bytes), summed in float64. The sum holds every target, the end of each document
    and the sentinels of spans included; the bytes are those of the source that the targets cover.
    """
    nats, source_bytes, starts = 0.0, 0, 0
    for batch in evaluation_batches(windows, data.batch_size):
        data.check()
        scores = score(model, params, data.place(batch))
        nats += float(np.sum(scores.nats_BL, dtype=np.float64))
        source_bytes += int(np.sum(batch["target_bytes"], dtype=np.int64))
        starts = starts + np.array([int(s.sum()) for s in scores.starts])
        see(batch, scores)
    return nats / (math.log(2) * source_bytes), source_bytes, starts


@dataclasses.dataclass(frozen=True)
class BitsPerByte:
    """Bits per byte of one split."""

    split: str = "test"

    def __call__(self, model, params, data):
        """{"bpb", "bytes_per_token", "bytes_per_chunk" of the innermost chunks (or of the tokens),
        "stage<s>/bytes_per_chunk"; where the targets are words joined or hidden "bytes_per_window_token", of the tokens
        that are read; of byte models `ChunkStatistics`; and of rows that not all of their text fits into "dropped", the
        % of its bytes that is left out}."""
        windows, statistics, tokens, dropped = data.windows(self.split), ChunkStatistics(), 0, None
        tokenizer = data.baked.tokenizer
        lengths = tokenizer.token_lengths()
        symbols = np.setdiff1d(np.flatnonzero(lengths == 0), (tokenizer.bos, tokenizer.eos))  # the ends of words

        def see(batch, scores):
            nonlocal tokens, dropped
            if "dropped_bytes" in batch:
                dropped = (dropped or 0) + int(np.sum(batch["dropped_bytes"], dtype=np.int64))
            is_symbol = np.isin(batch["targets"], symbols) & (batch["weights"] > 0)
            tokens += int(np.count_nonzero((batch["target_bytes"] > 0) | is_symbol))
            if lengths.max() == 1 and data.corruption.continues:
                statistics.add(*at_bytes(batch, scores.starts, lengths))

        bpb, source_bytes, starts = bits_per_byte(model, params, windows, data, see)
        if not data.corruption.continues and len(starts):
            return {"bpb": bpb}  # the targets are a share of the bytes, and the chunks are of all
        chunks = {f"stage{s}/bytes_per_chunk": source_bytes / max(1, int(n)) for s, n in enumerate(starts)}
        innermost = list(chunks.values())[-1] if chunks else source_bytes / tokens
        at = {"bytes_per_token": source_bytes / tokens, "bytes_per_chunk": innermost}
        if hasattr(data.corruption, "bytes_per_window_token"):
            at["bytes_per_window_token"] = data.corruption.bytes_per_window_token(windows.stream, tokenizer)
        left_out = {} if dropped is None else {"dropped": 100 * dropped / (source_bytes + dropped)}
        return {"bpb": bpb, **at, **chunks, **statistics.values(), **left_out}


def beginnings(documents, max_bytes):
    """The beginnings of all documents (bytes), each of the same share of `max_bytes`, cut between characters."""
    documents = list(documents)
    share = max(1, max_bytes // max(1, len(documents)))
    return [d[:share].decode("utf-8", "ignore").encode() or d[:share] for d in documents]


@dataclasses.dataclass(frozen=True)
class Robustness:
    """Bits per byte of excerpts of the test documents under each of H-Net's five perturbations (arXiv 2507.07955,
    Table 3), and as they are.

    The paper perturbs HellaSwag and reports accuracy; this scores the perturbed text itself, per byte of the
    perturbed text. Every document of the split gives the same share of `max_bytes`, from its start.
    """

    split: str = "test"
    max_bytes: int = 200_000
    seed: int = 0

    def __call__(self, model, params, data):
        """{perturbation: bits per byte}, "clean" of the same excerpts, the mean "perturbed", and "cost", the mean's
        excess over clean."""
        texts, tokenizer = beginnings(data.baked.documents(self.split), self.max_bytes), data.baked.tokenizer

        def score(texts):
            return bits_per_byte(model, params, data.windows_of(stream_of(texts, tokenizer)), data)[0]

        result = {name: score(perturb(texts, name, self.seed)) for name in PERTURBATIONS}
        mean, clean = sum(result.values()) / len(result), score(texts)
        return result | {"clean": clean, "perturbed": mean, "cost": mean - clean}
