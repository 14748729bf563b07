"""What hidden words cost who reads nothing: frequencies, given how many are hidden in a row and at which place one stands."""

import dataclasses
from typing import Any

import numpy as np

from lmlab.data.bake import bake
from lmlab.data.masked_words import MaskedWords
from lmlab.evaluation.study import Study

LONGEST, LAST = 32, 16  # longer runs are taken for one, and so are later places
PLACES = LONGEST * LAST
ROWS = 256  # that are read together
BACK_OFF = 20.0  # targets that the frequencies without a place weigh as much as


def runs_of(hidden_BL):
    """Of every position, how many hidden ones its run has (0: it is seen) and how many of it stand before: int [B, L]."""
    B, L = hidden_BL.shape
    at_BL = np.broadcast_to(np.arange(L), (B, L))
    before_BL = np.maximum.accumulate(np.where(hidden_BL, -1, at_BL), axis=1)  # the last one that is seen
    behind_BL = np.minimum.accumulate(np.where(hidden_BL, L, at_BL)[:, ::-1], axis=1)[:, ::-1]
    return np.where(hidden_BL, behind_BL - before_BL - 1, 0), np.where(hidden_BL, at_BL - before_BL - 1, 0)


def frequencies(arm):
    """scale -> `HiddenFrequencies` of what the Run `arm(scale)` hides, from as many rows as it reads."""

    def at(scale):
        run = arm(scale)
        rows = run.steps * run.batch_size
        return HiddenFrequencies(run.corpus, tokenizer=run.tokenizer, corruption=run.corruption, length=run.length, rows=rows)

    return at


@dataclasses.dataclass(frozen=True)
class HiddenFrequencies(Study):
    """Bits per hidden byte of the test split where each target has its frequency among the hidden ones of `rows` rows of the
    train split, from all over it: of those in runs of as many masks and at the same place, as far as these are known. What
    a trained model has below it, it has from the words around."""

    tokenizer: Any = None
    corruption: MaskedWords = MaskedWords()
    length: int = 512  # of the models' rows
    rows: int = 1000

    def measure(self):
        """{"bpb"}."""
        baked = bake(self.corpus, self.tokenizer)
        place_N, target_N, _ = self._targets(baked, "train", self.rows)
        V = getattr(baked.tokenizer, "subwords", baked.tokenizer).vocab_size  # what is named is not always what is read
        counts_PV = np.bincount(place_N * V + target_N, minlength=PLACES * V).reshape(PLACES, V)
        p_V = (counts_PV.sum(axis=0) + 0.5) / (counts_PV.sum() + 0.5 * V)
        p_PV = (counts_PV + BACK_OFF * p_V) / (counts_PV.sum(axis=1, keepdims=True) + BACK_OFF)
        place_N, target_N, covered = self._targets(baked, "test")
        return {"bpb": float(-np.log2(p_PV[place_N, target_N]).sum()) / covered}

    def _targets(self, baked, split, rows=None):
        """(size of the run and place in it as one number, target: int [N]; bytes covered) of a split, or of so many rows."""
        windows = self.corruption.windows(baked.split(split), self.length, baked.tokenizer)
        rows = len(windows) if rows is None else min(rows, len(windows))
        indices, places, targets, covered = np.arange(rows) * len(windows) // rows, [], [], 0
        for first in range(0, rows, ROWS):
            batch = windows.batch(indices[first : first + ROWS])
            size_BL, place_BL = runs_of((batch["tokens"] == baked.tokenizer.vocab_size) & (batch["segment_ids"] > 0))
            asked_BL = batch["weights"] > 0
            place_BL = np.minimum(size_BL, LONGEST - 1) * LAST + np.minimum(place_BL, LAST - 1)
            places.append(place_BL[asked_BL])
            targets.append(batch["targets"][asked_BL])
            covered += int(batch["target_bytes"].sum())
        return np.concatenate(places), np.concatenate(targets), covered
