"""Whoever knows the seams is always right, and text split at them makes tokens that keep to them."""

import pytest

from lmlab.data.compounds import Compounds
from lmlab.data.corpora import Files
from lmlab.evaluation.decompounding import Trial
from lmlab.text.bpe import BPE
from lmlab.text.compounds import joined


@pytest.fixture
def trial(tmp_path):
    ends = [f"{a}o{b}" for a in "bcdfg" for b in "klmn"]
    compounds = [(f"{a}x", f"x{b}") for a in ends for b in ends[::4]]  # "xx" is their commonest pair
    simple = [f"single{a}{b}" for a in ends for b in "bcdfg"]
    (tmp_path / "t.txt").write_text(" ".join([a + b for a, b in compounds] * 8 + simple * 2))
    text = Files(str(tmp_path / "t.txt"))
    rows = [f"{a}{b}\t{a} @@{b}\t001" for a, b in compounds] + [f"{word}\t{word}\t000" for word in simple]
    (tmp_path / "w.tsv").write_text("\n".join(rows))
    return Trial(Compounds(str(tmp_path / "w.tsv"), test=0.2), text, BPE(290), 10**6, 1000, 100)


def test_who_knows_the_seams_is_right(trial):
    known = {joined(d.data): d.data for d in trial.compounds.documents()}
    found = trial(lambda words: [known.get(word, word) for word in words])
    assert found["right"] == found["right_compounds"] == found["right_simple"] == 100
    assert found["hard_pieces"] == 0 < found["hard"] and found["tokens"] > 1
    kept = trial(lambda words: words)
    assert kept["right_compounds"] == 0 and kept["right_simple"] == 100 and 0 < kept["right"] < 100
    assert kept["hard"] == kept["hard_pieces"] == found["hard"]
