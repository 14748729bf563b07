"""An addition counts only if all of it is right."""

import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.sums import Sums
from lmlab.evaluation import bits_per_byte
from lmlab.evaluation.scoring import Scores
from lmlab.evaluation.sums import SumAccuracy, sum_class
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.digits import DigitGroups


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), DigitGroups("left"), DigitGroups("right")])
def test_right_sums_by_length(tokenizer, tmp_path, monkeypatch):
    """A model that knows all but every number with a 7, which stands for errors in the answers only."""
    baked = bake(Sums(800, (2, 4)), tokenizer, str(tmp_path))
    data = bits_per_byte.Data(baked, 16, 4)
    seven = np.array([b"7" in tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)])

    def score(model, params, batch):
        assert (batch["segment_ids"] <= 1).all()  # a sum a row, and nothing else
        begins = batch["tokens"][:, 0] == tokenizer.bos  # who does not see a sum from its beginning cannot know it
        best = np.where(seven[batch["targets"]] | ~begins[:, None], 0, batch["targets"])
        return Scores(np.where(seven[batch["targets"]], 8.0, 2.0).astype(np.float32), best, ())

    monkeypatch.setattr(bits_per_byte, "score", score)
    found = SumAccuracy()(None, None, data)
    rows = []
    for document in baked.documents("test"):
        a, rest = document.split(b"+")
        b, total = rest.split(b"=")
        kind = "unequal" if len(a) != len(b) else "same" if len(total) == len(a) else "carry"
        tokens = [*map(tokenizer.token_bytes, tokenizer.encode(document))]
        answer = tokens[tokens.index(b"=") + 1 :]
        nats = sum(8 if b"7" in token else 2 for token in answer) + 2
        rows.append((kind if len(total) > 3 else "", b"7" not in total, nats / np.log(2), len(total)))
    kinds, right, bits, digits = (np.array(column) for column in zip(*rows, strict=True))
    assert {"same", "carry", "unequal", ""} == set(kinds)
    for name, those in {"": kinds == kinds, **{f"/{kind}": kinds == kind for kind in set(kinds) - {""}}}.items():
        assert found[f"right{name}"] == pytest.approx(100 * right[those].mean())
        assert found[f"bits{name}"] == pytest.approx(bits[those].sum() / digits[those].sum())


def test_commas_do_not_count_as_digits():
    assert sum_class(b"1,234+9,876=11,110") == "carry"
    assert sum_class(b"123+456=579") is None
    assert sum_class(b"123+456=579", 2) == "same"
