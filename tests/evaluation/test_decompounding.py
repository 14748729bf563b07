"""Whoever knows the seams is always right, and text split at them makes tokens that keep to them."""

import dataclasses
import types

import pytest

from lmlab.data.compounds import Compounds
from lmlab.data.corpora import Files
from lmlab.evaluation import decompounding
from lmlab.evaluation.decompounding import Decompounding, Trial
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


def test_what_there_are_no_words_for_is_left_out(trial):
    none_hard = dataclasses.replace(trial, recipe=BPE(258))
    found = none_hard(lambda words: words)
    assert found["hard"] == 0 and "right_hard" not in found and found["right_easy"] == 0
    words = types.SimpleNamespace(split=lambda part, most: [f"simple{a}".encode() for a in "abc"])
    assert set(dataclasses.replace(trial, compounds=words)(lambda words: words)) == {"right", "right_simple"}


def test_a_hyphen_inside_of_a_character_is_no_seam_of_the_text(trial, tmp_path):
    text = Files(str(tmp_path / "u.txt"))
    (tmp_path / "u.txt").write_text("größefluß größefluß haus")
    everywhere, between = b"-".join(bytes([b]) for b in "größefluß".encode()), "g-r-ö-ß-e-f-l-u-ß".encode()
    assert b"\xc3-\xb6" in everywhere
    read = dataclasses.replace(trial, text=text)
    for found in (everywhere, between):
        (data,) = read._split(read._documents(), lambda words: [found] * len(words))
        assert data.decode() == "g\nr\nö\nß\ne\nf\nl\nu\nß " * 2 + "haus"


def test_the_split_that_is_asked_for_is_tried(trial, monkeypatch):
    asked = []
    split = lambda model, params, words, *_, **__: asked.append(words) or words  # noqa: E731
    monkeypatch.setattr(decompounding, "decompound", split)
    data = types.SimpleNamespace(baked=types.SimpleNamespace(tokenizer=None), check=None)
    Decompounding(trial, "validation")(None, None, data)
    assert asked[0] == [joined(word) for word in trial.compounds.split("validation")] != []
