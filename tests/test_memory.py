"""Compiled programs are dropped between runs once there are too many."""

import os

import jax
import pytest

from lmlab import memory
from lmlab.commands import train


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="Linux tells how many mappings there are")
def test_programs_are_dropped_once_there_are_many(monkeypatch):
    double = jax.jit(lambda x: 2 * x)
    monkeypatch.setattr(memory, "MAPPINGS", 10**9)
    double(1.0), memory.drop_programs()
    assert double._cache_size() == 1
    monkeypatch.setattr(memory, "MAPPINGS", 0)
    memory.drop_programs()
    assert double._cache_size() == 0 and double(2.0) == 4


def test_every_run_of_a_table_begins_so(monkeypatch):
    called = []
    monkeypatch.setattr(memory, "drop_programs", lambda: called.append("drop"))
    monkeypatch.setattr("lmlab.runner.run_arm", lambda *args, **kwargs: called.append("run"))
    monkeypatch.setattr("lmlab.training.processes.is_first", lambda: False)
    train.train_one(None, "runs", "arm")
    assert called == ["drop", "run"]
