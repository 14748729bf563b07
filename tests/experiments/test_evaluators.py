"""Every evaluator of every experiment answers at the end of a run, behind two steps."""

import dataclasses

import numpy as np
import pytest

from lmlab import experiment
from lmlab.runner import run_arm
from tests.experiments.test_all_arms import SMOKE, STUDIES
from tests.kinds import one_of_each, parts


def asking():
    """What tells apart what is asked of arms, and the arms."""
    for name, arm in SMOKE:
        if (name, arm) not in STUDIES:
            run = experiment.load(name).resolve(arm, "smoke")
            yield {(name, type(e).__name__) for e in run.evaluators} | parts(run.evaluators), name, arm


def short(run):
    """Two steps, and two of each that comes before."""
    after = run.after and short(run.after)
    return dataclasses.replace(run, steps=2, log_every=1, evaluate_every=1, checkpoint_every=2, keep_every=0, after=after)


@pytest.mark.slow
@pytest.mark.parametrize("name, arm", [p.values for p in one_of_each(asking()) if not p.marks])
def test_evaluators_answer(name, arm, tmp_path):
    found = experiment.load(name)
    result = run_arm(short(found.resolve(arm, "smoke")), str(tmp_path), arm)
    shown = {c.key for table in found.tables if arm in table.arms for c in table.measured}
    assert shown & set(result["metrics"])
    assert all(np.isfinite(value).all() for value in result["metrics"].values()), result["metrics"]
