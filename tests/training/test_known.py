"""What several arms of a table come after is trained once."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from lmlab.errors import Interrupted
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.objectives.transferred import Transferred
from lmlab.runner import load_run
from lmlab.training.known import Known
from lmlab.training.loop import train
from tests.training import tiny


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A teacher and its student, of four steps."""
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    teacher = tiny.plain(tmp_path, steps=4, batch_size=2, evaluators=())
    return teacher, dataclasses.replace(teacher, objective=Transferred(teacher=teacher))


def parameters(directory):
    return jax.tree.map(np.asarray, load_run(str(directory))[2])


def test_a_teacher_is_copied_and_its_student_is_the_same(runs, tmp_path):
    teacher, student = runs
    known = Known()
    train(teacher, str(tmp_path / "arm"))
    known.add(teacher, tmp_path / "arm")
    known.copy(student, tmp_path / "copied")
    # To the byte, times of the clock included: it was not trained again.
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("arm", "copied-teacher")]
    assert lines[0] == lines[1]
    train(student, str(tmp_path / "copied"))
    assert (tmp_path / "copied-teacher" / "metrics.jsonl").read_bytes() == lines[0]
    train(student, str(tmp_path / "alone"))
    jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path / "copied"), parameters(tmp_path / "alone"))


def test_a_teacher_that_is_evaluated_otherwise_is_the_same(runs, tmp_path):
    teacher, student = runs
    known, seen = Known(), dataclasses.replace(teacher, evaluators=(BitsPerByte("test"),))
    train(seen, str(tmp_path / "arm"))
    known.add(seen, tmp_path / "arm")
    known.copy(student, tmp_path / "copied")
    train(student, str(tmp_path / "copied"))
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("arm", "copied-teacher")]
    assert lines[0] == lines[1]


def test_what_a_teacher_came_after_is_remembered_too(runs, tmp_path):
    teacher, student = runs
    train(student, str(tmp_path / "first"))
    known = Known()
    known.add(student, tmp_path / "first")
    known.copy(dataclasses.replace(student, steps=8), tmp_path / "second")
    assert (tmp_path / "second-teacher").is_dir()
    # A run that comes after the student has it whole, and needs nothing of what that came after.
    known.copy(dataclasses.replace(student, objective=Transferred(teacher=student)), tmp_path / "third")
    assert sorted(p.name for p in tmp_path.glob("third*")) == ["third-teacher"]


def test_only_the_same_finished_run_is_copied(runs, tmp_path):
    teacher, student = runs
    train(teacher, str(tmp_path / "arm"))
    known = Known()
    known.add(dataclasses.replace(teacher, steps=8), tmp_path / "arm")  # of which half is done
    known.copy(dataclasses.replace(student, objective=Transferred(teacher=dataclasses.replace(teacher, steps=8))), tmp_path / "a")
    known.add(teacher, tmp_path / "arm")
    known.copy(student.seeded(1), tmp_path / "b")
    assert not os.path.exists(tmp_path / "a-teacher") and not os.path.exists(tmp_path / "b-teacher")
    (tmp_path / "c-teacher").mkdir()  # what is there stays
    known.copy(student, tmp_path / "c")
    assert not os.listdir(tmp_path / "c-teacher")


def test_a_copy_that_fails_leaves_nothing(runs, tmp_path, monkeypatch):
    teacher, student = runs
    train(teacher, str(tmp_path / "arm"))
    known = Known()
    known.add(teacher, tmp_path / "arm")

    def full(source, target, **kwargs):
        os.makedirs(target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(Interrupted, match="No space left"):
        known.copy(student, tmp_path / "run")
    assert not list(tmp_path.glob("run*"))
