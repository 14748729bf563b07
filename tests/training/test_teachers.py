"""A teacher or donor whose tokenizer is not the one that an objective needs ends in a sentence."""

import contextlib
import dataclasses
import types

import pytest

from lmlab.errors import UserError
from lmlab.objectives.alm import ALM
from lmlab.objectives.look_inside import LookInside, Spelling
from lmlab.objectives.retokenized import FromHypernetwork, PredictRows
from lmlab.objectives.transferred import Transferred
from lmlab.text.bpe import BPE, train_bpe
from lmlab.text.pairs import Beside, Paired
from lmlab.training.precursors import begin
from tests.training import tiny

PAIR, ONE, EITHER = (ALM, FromHypernetwork), (PredictRows, Spelling, LookInside), (Transferred,)
TEXT = [b"the reader reads what the writer writes, and the weather wrote to another brother " * 9]
OWN, OTHER, THIRD = (train_bpe(TEXT, size) for size in (258, 262, 266))


def run(tmp_path, objective, tokenizer):
    made = tiny.plain(tmp_path)
    model = made.model.clone(vocab_size=300)
    teacher = dataclasses.replace(made, model=model, tokenizer=BPE(290))
    return dataclasses.replace(teacher, tokenizer=tokenizer, objective=objective(teacher=teacher))


@pytest.mark.parametrize("objective", PAIR + ONE + EITHER)
def test_an_objective_gets_the_pair_that_it_needs_or_none(objective, tmp_path):
    for tokenizer, of, said in (
        (BPE(290), PAIR, "needs two tokenizers"),
        (Beside(BPE(280), BPE(290)), ONE, "cannot be a pair"),
    ):
        if objective in of:
            with pytest.raises(UserError, match=said):
                run(tmp_path, objective, tokenizer)
        else:
            spells = objective in (Spelling, LookInside)  # whose model is none of these
            with pytest.raises(UserError, match="characters") if spells else contextlib.nullcontext():
                run(tmp_path, objective, tokenizer)


@pytest.mark.parametrize("objective", PAIR + ONE + EITHER)
def test_a_teacher_of_another_tokenizer_is_refused(objective):
    made = types.SimpleNamespace(objective=objective(), model=None)
    before = {"teacher": ({}, THIRD)}
    for tokenizer in ([] if objective in PAIR else [OWN]) + ([] if objective in ONE else [Paired(OWN, OTHER)]):
        with pytest.raises(UserError, match="other tokens than those that its teacher was trained with"):
            begin(made, None, None, tokenizer, before)


@pytest.mark.parametrize("objective", [ALM, Transferred])
def test_a_donor_of_another_tokenizer_is_refused(objective):
    made = types.SimpleNamespace(objective=objective(method="omp"), model=None)
    for tokenizer, teacher in ((Paired(OWN, OTHER), OTHER), (OWN, OWN)):
        with pytest.raises(UserError, match="other tokens than those that its donor was trained with"):
            begin(made, None, None, tokenizer, {"teacher": ({}, teacher), "donor": ({}, THIRD)})


def test_a_run_before_of_another_tokenizer_is_refused():
    made = types.SimpleNamespace(objective=None, model=None)
    for tokenizer in (OWN, Paired(OWN, OTHER)):
        with pytest.raises(UserError, match="other tokens than those that the run before it was trained with"):
            begin(made, None, None, tokenizer, {"before": ({}, THIRD)})


@pytest.mark.parametrize("tokenizer", [OWN, Paired(OWN, OTHER)], ids=["own", "pair"])
@pytest.mark.parametrize("found", [OWN, Paired(OWN, THIRD)], ids=["own", "pair"])
def test_a_run_before_of_the_same_tokenizer_is_gone_on_from(tokenizer, found, tmp_path):
    """Also where one of the two reads the text in a teacher's tokens beside its own."""
    made = tiny.plain(tmp_path)
    made = types.SimpleNamespace(model=made.model, after=made)
    state = types.SimpleNamespace(replace=lambda params: params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmlab.training.precursors.place_parameters", lambda params, shardings: params)
        shardings = types.SimpleNamespace(params=None)
        assert begin(made, state, shardings, tokenizer, {"before": ({"w": 1}, found)}) == {"w": 1}
