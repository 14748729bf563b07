"""Bits per byte over whole splits, clean and perturbed."""

import dataclasses
import math

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows, evaluation_batches
from lmlab.evaluation.perturbations import PERTURBATIONS, perturb
from lmlab.evaluation.scoring import score


@dataclasses.dataclass(frozen=True)
class Data:
    """What an evaluator may look at."""

    baked: object  # lmlab.data.bake.Baked
    length: int  # tokens per row
    batch_size: int  # rows

    def windows(self, split):
        """Windows over a split."""
        return Windows(self.baked.split(split), self.length, self.baked.tokenizer)


def bits_per_byte(model, params, windows, batch_size):
    """(bits per byte, source bytes, chunk starts per stage) of every window.

    bpb = sum of nats / (ln 2 * source bytes), summed in float64. The sum holds every target, the end of each document
    included; the bytes are those of the source.
    """
    nats, source_bytes, starts = 0.0, 0, 0
    for batch in evaluation_batches(windows, batch_size):
        scores = score(model, params, batch)
        nats += float(np.sum(scores.nats_BL, dtype=np.float64))
        source_bytes += int(np.sum(batch["target_bytes"], dtype=np.int64))
        starts = starts + np.array([int(s.sum()) for s in scores.starts])
    return nats / (math.log(2) * source_bytes), source_bytes, starts


@dataclasses.dataclass(frozen=True)
class BitsPerByte:
    """Bits per byte of one split."""

    split: str = "test"

    def __call__(self, model, params, data):
        """{"bpb", "stage<s>/bytes_per_chunk", and "bytes_per_chunk" of the innermost chunks (or of the tokens)}."""
        windows = data.windows(self.split)
        bpb, source_bytes, starts = bits_per_byte(model, params, windows, data.batch_size)
        chunks = {f"stage{s}/bytes_per_chunk": source_bytes / max(1, int(n)) for s, n in enumerate(starts)}
        tokens = len(windows.stream.tokens) - 2 * len(windows.stream.starts)  # without BOS and EOS
        innermost = list(chunks.values())[-1] if chunks else source_bytes / tokens
        return {"bpb": bpb, **chunks, "bytes_per_chunk": innermost}


@dataclasses.dataclass(frozen=True)
class Robustness:
    """Bits per byte of the test documents under each of H-Net's five perturbations (arXiv 2507.07955, Table 3).

    The paper perturbs HellaSwag and reports accuracy; this scores the perturbed documents themselves, per byte of
    the perturbed text. `max_bytes` takes whole documents from the start of the split up to that many bytes.
    """

    split: str = "test"
    max_bytes: int = 200_000
    seed: int = 0

    def __call__(self, model, params, data):
        """{perturbation: bits per byte}."""
        documents, total = [], 0
        for document in data.baked.documents(self.split):
            if total + len(document) <= self.max_bytes or not documents:
                documents.append(document)
                total += len(document)
        tokenizer, result = data.baked.tokenizer, {}
        for name in PERTURBATIONS:
            stream = stream_of(perturb(documents, name, self.seed), tokenizer)
            windows = Windows(stream, data.length, tokenizer)
            result[name], _, _ = bits_per_byte(model, params, windows, data.batch_size)
        result["perturbed"] = sum(result.values()) / len(result)
        return result
