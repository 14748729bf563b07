"""Frontiers of a source are right where words end, and what there was no room for is counted."""

import types

import jax
import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.corruptions import SpanCorruption
from lmlab.evaluation import frontiers
from lmlab.evaluation.bits_per_byte import Data
from lmlab.models.chunkers import spacelike
from tests.training import tiny


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """FrontierF1 of probabilities that a function gives for [B, S] tokens and a mask of those that are read."""
    run = tiny.plain(tmp_path)
    data = Data(bake(run.corpus, run.tokenizer, str(tmp_path / "cache")), 128, 4, SpanCorruption())

    def of(probability, lost=0.0):
        def found(model, mesh, params, batch):
            tokens, read = np.asarray(batch["inputs"]), np.asarray(batch["input_segment_ids"]) > 0
            p_BS = jax.numpy.asarray(np.where(read, probability(tokens, read), 0.0), "float32")
            return types.SimpleNamespace(probability_BS=p_BS, lost=np.float32(lost * read.sum()))

        monkeypatch.setattr(frontiers, "_forward", found)
        return frontiers.FrontierF1()(None, {"params": jax.numpy.zeros(1)}, data)

    return of


def behind_words(tokens, read):
    """The first spacelike byte behind each word."""
    space = np.asarray(spacelike(tokens))
    return space & ~np.pad(space, ((0, 0), (1, 0)))[:, :-1]


def test_frontiers_behind_words_are_right_and_find_all(measure):
    right = measure(behind_words)
    assert right["frontier_precision"] > 0.95 and right["frontier_recall"] > 0.95 and right["frontier_f1"] > 0.95
    assert 4 < right["bytes_per_block"] < 8 and right["lost"] == 0


def test_frontiers_elsewhere_are_wrong(measure):
    within = measure(lambda tokens, read: np.roll(behind_words(tokens, read), -1, axis=1))
    assert within["frontier_f1"] < 0.3
    everywhere = measure(lambda tokens, read: read)
    assert everywhere["frontier_recall"] > 0.95 and everywhere["frontier_precision"] < 0.5
    assert everywhere["bytes_per_block"] == pytest.approx(1, abs=0.05)


def test_what_is_lost_is_a_share_of_what_is_read(measure):
    assert measure(behind_words, lost=0.25)["lost"] == pytest.approx(0.25)
