"""An addition counts only if all of it is right."""

import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.sums import Sums
from lmlab.evaluation import bits_per_byte
from lmlab.evaluation.scoring import Scores
from lmlab.evaluation.sums import SumAccuracy
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.digits import DigitGroups


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), DigitGroups("left"), DigitGroups("right")])
def test_right_sums_by_length(tokenizer, tmp_path, monkeypatch):
    """A model that knows all but every number with a 7, which stands for errors in the answers only."""
    baked = bake(Sums(400, (1, 3)), tokenizer, str(tmp_path))
    data = bits_per_byte.Data(baked, 16, 4)
    seven = np.array([b"7" in tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)])

    def score(model, params, batch):
        assert (batch["segment_ids"] <= 1).all()  # a sum a row, and nothing else
        begins = batch["tokens"][:, 0] == tokenizer.bos  # who does not see a sum from its beginning cannot know it
        best = np.where(seven[batch["targets"]] | ~begins[:, None], 0, batch["targets"])
        return Scores(np.zeros(best.shape, np.float32), best, ())

    monkeypatch.setattr(bits_per_byte, "score", score)
    found = SumAccuracy()(None, None, data)
    rows = []
    for document in baked.documents("test"):
        a, rest = document.split(b"+")
        b, total = rest.split(b"=")
        rows.append((b"7" not in total, len(total) > max(len(a), len(b))))
    right, longer = np.array(rows).T
    assert found["right"] == pytest.approx(100 * right.mean())
    assert found["right_longer"] == pytest.approx(100 * right[longer].mean())
    assert found["right_equal"] == pytest.approx(100 * right[~longer].mean())
