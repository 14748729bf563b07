"""Every segmentation is scored on the same bytes, and what differs is what the tokens cost."""

import math

import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.segmentations import BPEDropout
from lmlab.evaluation import bits_per_byte
from lmlab.evaluation.segmentations import Segmentations
from lmlab.evaluation.scoring import Scores
from lmlab.text.bpe import BPE
from tests.training import tiny


@pytest.mark.parametrize("corruption", [BPEDropout(0.2), None], ids=["trained on others", "trained on its own"])
def test_bits_are_those_of_the_tokens_of_each_segmentation(corruption, tmp_path, monkeypatch):
    run = tiny.run(tmp_path)
    baked = bake(run.corpus, BPE(290), str(tmp_path / "cache"))
    data = bits_per_byte.Data(baked, 20, 4)
    if corruption:
        data = bits_per_byte.Data(baked, corruption.positions(20), 4, corruption)
    scored = []

    def score(model, params, batch):
        scored.append((int(batch["weights"].sum()), int(batch["target_bytes"].sum())))
        return Scores(batch["weights"].astype(np.float32), batch["targets"], ())  # a nat a token

    monkeypatch.setattr(bits_per_byte, "score", score)
    values = Segmentations(max_bytes=2000)(None, None, data)
    per = len(scored) // 3
    totals = [np.sum(scored[i * per : (i + 1) * per], axis=0) for i in range(3)]
    assert totals[0][1] == totals[1][1] == totals[2][1] > 1500
    for name, (tokens, source_bytes) in zip(("own", "split", "dropout"), totals):
        assert values[f"{name}_bpb"] == pytest.approx(tokens / (math.log(2) * source_bytes))
    assert values["split_cost"] > 0 and values["dropout_cost"] > 0
