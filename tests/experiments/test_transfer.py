"""The experiments that change a tokenizer: who learns from what."""

import dataclasses

import pytest

from lmlab import experiment
from lmlab.objectives.alm import ALM


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_students_differ_in_their_objective_alone(scale):
    alm = experiment.load("alm")
    for kind in ("bytes", "bpe", "hnet"):
        taught, plain = (alm.resolve(f"{kind}_{name}", scale) for name in ("alm", "next_token"))
        assert isinstance(taught.objective, ALM) and not isinstance(plain.objective, ALM)
        assert dataclasses.replace(plain, objective=taught.objective) == taught
        assert plain.objective.teacher == taught.objective.teacher == alm.resolve("teacher", scale)
        assert taught.tokenizer.teacher == taught.objective.teacher.tokenizer


@pytest.mark.parametrize("path", ["alm/bytes_alm", "omp_transplant/omp"])
def test_another_corpus_is_the_teachers_too(path):
    found, arm = experiment.find(path)
    run = found.resolve(arm, "smoke", corpus="text")
    others = [run.objective.teacher, *([run.objective.donor] if run.objective.donor else [])]
    assert all(other.corpus == run.corpus for other in others) and run.corpus.path.endswith("text")
