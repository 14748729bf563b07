"""The chunking benchmark's runs are what they say."""

import numpy as np

from lmlab.bench import chunking
from lmlab.experiment import load


def test_every_stride_chooses_among_the_same_capacities():
    run = load("hnet").resolve("hnet_1stage", "small")
    for n in chunking.STRIDES:
        assert chunking.strided(run, n).model.backbone.slots(512) == (32, 64, 128, 256, 512)


def test_the_parts_alone_are_measured():
    run = load("hnet").resolve("hnet_1stage", "smoke")
    measure = chunking.chunking_of(run)
    seconds = [measure(seed) for seed in range(2)]
    assert all(np.isfinite(seconds)) and min(seconds) > 0


def test_settled_runs_have_one_capacity_at_every_stage():
    backbone = chunking.settled(load("hnet").resolve("hnet_2stage", "small")).model.backbone
    assert backbone.slots(512) == (304,) and backbone.inner.slots(304, 512 / 3) == (104,)
