"""A run directory pins its data, has one writer, remembers its commits, and reading it changes nothing."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from lmlab import config
from lmlab.commands.common import changes_of
from lmlab.data.bake import bake
from lmlab.errors import UserError
from lmlab.training import checkpoints, directory
from lmlab.training.sharding import Mesh
from lmlab.training.spikes import Spikes
from tests.training import tiny


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    return tiny.run(tmp_path)


def test_changed_data_is_refused(run, tmp_path):
    folder = tmp_path / "run"
    with directory.claimed(run, folder):
        directory.pin(folder, bake(run.corpus, run.tokenizer))
        directory.pin(folder, bake(run.corpus, run.tokenizer))
        (tmp_path / "text" / "000.txt").write_text("something else")
        with pytest.raises(UserError, match="has changed since"):
            directory.pin(folder, bake(run.corpus, run.tokenizer))


def test_one_writer_at_a_time(run, tmp_path):
    folder = tmp_path / "run"
    with directory.claimed(run, folder):
        script = (
            "import sys, pathlib\nfrom tests.training import tiny\nfrom lmlab.training import directory\n"
            "path = pathlib.Path(sys.argv[1])\nwith directory.claimed(tiny.run(path), path / 'run'): pass"
        )
        other = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
        assert "Another process is training in" in other.stderr
    with directory.claimed(run, folder):
        pass


def test_commits_are_added_once(run, tmp_path, monkeypatch):
    for name in ("one", "one", "two"):
        monkeypatch.setattr(directory, "commit", lambda name=name: name)
        with directory.claimed(run, tmp_path / "run"):
            pass
    assert directory.commits(tmp_path / "run") == ["one", "two"]


@pytest.mark.parametrize(
    "change",
    [dict(mesh=Mesh(fsdp=2)), dict(remat=True), dict(keep_last=3), dict(keep_every=8),
     dict(spikes=Spikes("skip"))],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_run_may_go_on_with_another(run, tmp_path, change):
    with directory.claimed(run, tmp_path / "run"):
        pass
    changed = dataclasses.replace(run, **change)
    with directory.claimed(changed, tmp_path / "run"):
        pass
    assert config.from_json(config.load_json(str(tmp_path / "run" / "run.json"))) == changed
    behind = dataclasses.replace(run, after=run)
    with directory.claimed(behind, tmp_path / "behind"):
        pass
    assert directory.check(dataclasses.replace(behind, after=changed), tmp_path / "behind")
    for other in (dict(seed=1), dict(length=16), dict(accumulate=2), dict(spikes=Spikes(sigmas=6.0))):
        with pytest.raises(UserError, match="holds another run"):
            directory.check(dataclasses.replace(run, **other), tmp_path / "run")


def test_a_run_of_before_a_field_came_goes_on(run, tmp_path):
    with directory.claimed(run, tmp_path / "run"):
        pass
    path = tmp_path / "run" / "run.json"
    data = json.loads(path.read_text())
    del data["remat"], data["spikes"], data["mesh"]["sequence"], data["model"]["tied"]
    path.write_text(json.dumps(data))
    assert directory.check(run, tmp_path / "run")
    data["model"]["class"] = "lmlab.models.gone:Gone"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="holds another run"):
        directory.check(run, tmp_path / "run")


def test_what_may_change_names_no_other_directory():
    args = argparse.Namespace(
        set=["mesh.fsdp=2", "remat=True", "spikes.policy=skip", "spikes.sigmas=6", "accumulate=2"], corpus=None
    )
    assert changes_of(args) == ["spikes.sigmas=6", "accumulate=2"]


def test_a_claim_that_was_killed_can_be_made_again(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json.new").write_text("{")
    (tmp_path / "run" / "lock").write_text("")
    with directory.claimed(run, tmp_path / "run"):
        pass
    assert directory.check(run, tmp_path / "run")


def test_reading_leaves_unfinished_checkpoints_alone(tmp_path):
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    unfinished.mkdir(parents=True)
    (unfinished / "array").write_text("half of it")
    with checkpoints.checkpointer(str(tmp_path / "checkpoints"), read_only=True):
        time.sleep(0.5)  # Orbax cleans in the background, if it does
    assert (unfinished / "array").exists()
    with checkpoints.checkpointer(str(tmp_path / "checkpoints")):
        deadline = time.monotonic() + 20
        while unfinished.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not unfinished.exists()


def test_a_file_is_no_run_directory(run, tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(UserError, match="is a file"), directory.claimed(run, os.fspath(tmp_path / "run")):
        pass
    assert (tmp_path / "run").read_text() == "precious"
