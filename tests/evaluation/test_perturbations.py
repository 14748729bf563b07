import numpy as np
import pytest

from lmlab.evaluation.perturbations import PERTURBATIONS, edited, perturb

TEXT = "The naïve café: 漢字 and привет. " * 300


def run(name, text=TEXT, seed=0):
    return PERTURBATIONS[name](text.encode(), np.random.default_rng(seed)).decode()


def test_antspeak_and_upper_case_are_exact():
    assert run("antspeak", "Hé!") == "H É ! "
    assert run("upper_case", "naïve ß") == "NAÏVE SS"


def test_drop_removes_a_tenth_and_keeps_the_order():
    dropped = run("drop")
    rest = iter(TEXT)
    assert all(c in rest for c in dropped)  # a subsequence
    assert abs(1 - len(dropped) / len(TEXT) - 0.1) < 0.01


def test_random_case_changes_nothing_but_case():
    text = run("random_case")
    assert text.lower() == TEXT.lower()
    letters = [c for c in text if c.lower() != c.upper()]
    assert abs(sum(c.isupper() for c in letters) / len(letters) - 0.5) < 0.03


def test_repeat_repeats_a_fifth_up_to_four_times():
    text = "".join(chr(0x4E00 + i) for i in range(5000))  # all different, so runs are repeats
    repeated = run("repeat", text)
    counts = np.bincount([ord(c) - 0x4E00 for c in repeated], minlength=5000)
    assert "".join(dict.fromkeys(repeated)) == text
    assert set(counts.tolist()) == {1, 2, 3, 4}
    assert abs(np.mean(counts > 1) - 0.2) < 0.02


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_depends_on_content_and_seed_alone(name):
    documents = [TEXT.encode(), b"short one", b"\xff\xfe raw \xc3"]
    forward = perturb(documents, name, 1)
    assert perturb(documents[::-1], name, 1) == forward[::-1]
    if name in ("drop", "random_case", "repeat"):
        assert perturb(documents, name, 2)[0] != forward[0]


def test_bytes_that_are_not_utf8_pass_through():
    assert PERTURBATIONS["upper_case"](b"a\xff\xfeb\xc3", np.random.default_rng(0)) == b"A\xff\xfeB\xc3"
    assert perturb([b""], "drop") == [b""]


def test_edits_are_as_many_as_asked_of_each_kind_and_grow_from_one_another():
    text = "".join(chr(0x4E00 + i) for i in range(20_000))  # no letter, all different

    def edit(rate, seed=0):
        return edited([text.encode()], rate, seed)[0].decode()

    assert edit(0.0) == text
    assert edit(0.3, seed=1) != edit(0.3)
    gone = {}
    for rate in (0.1, 0.4):
        result = edit(rate)
        letters = sum(c.isascii() for c in result)
        gone[rate] = set(text) - set(result)
        assert abs(letters - 2 / 3 * rate * len(text)) < 300  # in the place of one, or behind it
        assert abs(len(gone[rate]) - 2 / 3 * rate * len(text)) < 300  # vanished, or replaced
        assert abs(len(result) - len(text)) < 300  # as many vanish as come
    assert gone[0.1] < gone[0.4]
