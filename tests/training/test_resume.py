"""A run that is stopped, killed or damaged at any moment ends like one that never was."""

import dataclasses
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from lmlab.errors import Interrupted, Stopped, UserError
from lmlab.evaluation import bits_per_byte
from lmlab.training import checkpoints, directory, loop
from lmlab.training.loop import train
from tests.training import tiny

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(run, folder of run directories, parameters, metrics) of a run that was left alone."""
    folder, old = tmp_path_factory.mktemp("whole"), os.environ.get("LMLAB_CACHE")
    os.environ["LMLAB_CACHE"] = str(folder / "cache")
    run = tiny.plain(folder)
    params, _ = train(run, folder / "whole")
    yield run, folder, params, lines(folder / "whole")
    os.environ.pop("LMLAB_CACHE") if old is None else os.environ.update(LMLAB_CACHE=old)


def lines(path, *kinds):
    """Metrics of these kinds (none: what is measured) without the clock."""
    every = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    kinds = kinds or ("train", "evaluation")
    return [tiny.timeless(line) for line in every if line["kind"] in kinds]


def assert_as_if_left_alone(whole, path, params):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), whole[2], params)
    assert lines(path) == whole[3]


def at_call(n, function, act):
    """`function`, but its call number `n` (from 1) does `act` first."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(None)
        if len(calls) == n:
            act()
        return function(*args, **kwargs)

    return wrapped


def test_a_stop_at_any_moment_loses_nothing(whole, monkeypatch):
    run, folder, path = whole[0], whole[1], whole[1] / "stopped"
    # Evaluations are due at steps 4 and 8 and have several batches; a line is logged every two steps.
    moments = [
        (loop, "bake", 1, signal.SIGTERM, "Stopped;"),
        (loop, "make_step", 1, signal.SIGTERM, "Stopped;"),
        (loop, "place", 1, signal.SIGINT, "Stopped at step 1;"),
        (loop, "place", 2, signal.SIGTERM, "Stopped at step 3;"),
        (bits_per_byte, "score", 2, signal.SIGTERM, "Stopped at step 4;"),
        (loop, "last_line", 1, signal.SIGTERM, "Stopped;"),  # before the evaluation that is still due
        (loop, "place", 3, signal.SIGTERM, "Stopped at step 7;"),
        (bits_per_byte, "score", 2, signal.SIGTERM, "Stopped at step 8;"),
    ]
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for module, name, call, number, sentence in moments:
        with monkeypatch.context() as patch, pytest.raises(Stopped, match=sentence):
            patch.setattr(module, name, at_call(call, getattr(module, name), lambda n=number: os.kill(os.getpid(), n)))
            train(run, path)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    params, _ = train(run, path)
    assert_as_if_left_alone(whole, path, params)
    assert [line["step"] for line in lines(path, "stopped")] == [1, 3, 4, 7, 8]


KILLED = """
import pathlib, sys
from tests.training import tiny
from lmlab.training.loop import train
p = pathlib.Path(sys.argv[1])
train(tiny.plain(p, steps=60, keep_every=20), p / "killed", lambda step, values: print(step, flush=True))
"""


def test_killed_at_random_moments(whole):
    """Also in the middle of a checkpoint or of its seal: most of this run is writing them. And while it starts, restores
    or compiles."""
    folder, rng = whole[1], random.Random(0)
    run = tiny.plain(folder, steps=60, keep_every=20)
    cache = jax.config.jax_compilation_cache_dir
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    reached = []
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
        first = int(child.stdout.readline() or 0)
        assert first, child.stderr.read().decode()[-2000:]
        time.sleep(rng.uniform(0.1, 0.7))
        child.kill()
        out, _ = child.communicate()
        reached.append(int(([first] + out.split())[-1]))
        starting = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.DEVNULL, env=env)
        time.sleep(rng.uniform(0.5, 4))
        starting.kill()
        starting.wait()
        if reached[-1] == 60:
            break
    assert reached[0] < 60
    params, _ = train(run, folder / "killed")
    left_alone, _ = train(run, folder / "long")
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), left_alone, params)
    assert lines(folder / "killed") == lines(folder / "long")
    # Two recent ones, and for good those of every 20 steps.
    assert checkpoints.steps(folder / "long" / "checkpoints") == [20, 40, 56, 60]


def test_metrics_are_on_disk_before_the_checkpoint_that_counts_them(whole, monkeypatch):
    """Else a machine that fails in between resumes from a step whose lines are gone."""
    path, synced, begun = whole[1] / "synced", [0], []
    file, fsync, write = path / "metrics.jsonl", os.fsync, checkpoints.Checkpoints.write

    def sync(descriptor):
        fsync(descriptor)
        if file.exists() and os.fstat(descriptor).st_ino == file.stat().st_ino:
            synced[0] = os.fstat(descriptor).st_size

    def begin(self, step, arrays):
        begun.append((step, synced[0], file.read_text()))
        return write(self, step, arrays)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(checkpoints.Checkpoints, "write", begin)
    train(whole[0], path)
    assert [step for step, *_ in begun] == [4, 8]
    for step, size, text in begun:
        assert size == len(text.encode())
        last = {line["kind"]: line["step"] for line in map(json.loads, text.splitlines())}
        assert last == {"train": step, "evaluation": step}


def test_what_is_kept_must_be_written(tmp_path):
    for change in (dict(keep_every=6), dict(keep_every=-4), dict(keep_last=0)):
        with pytest.raises(UserError, match="keep_"):
            tiny.plain(tmp_path, **change)


def test_of_damaged_checkpoints_the_previous_one_is_used(whole, capfd):
    run, folder, path = whole[0], whole[1], whole[1] / "damaged"
    train(run, path)

    def file_of(step):
        """The file with the arrays."""
        files = [p for p in (path / "checkpoints" / str(step)).rglob("*") if p.is_file()]
        return max(files, key=lambda p: p.stat().st_size)

    def flip():
        data = bytearray(file_of(8).read_bytes())
        data[len(data) // 2] ^= 1
        file_of(8).write_bytes(data)

    def cut():
        os.truncate(file_of(8), file_of(8).stat().st_size // 2)

    def unseal():
        for step in (4, 8):
            (path / "checkpoints" / str(step) / "sha256.json").unlink()

    for harm, reason, instead in (
        (flip, "has changed", "resumes from step 4"),
        (cut, "bytes instead of", "resumes from step 4"),
        (unseal, "is unfinished", "begins anew"),
    ):
        harm()
        capfd.readouterr()
        params, _ = train(run, path)
        assert_as_if_left_alone(whole, path, params)
        said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lmlab: ")]
        assert reason in said[0] and all(instead in line for line in said)
        assert said == [f"lmlab: {line['text']}" for line in lines(path, "warning")][-len(said) :]
        assert (path / "damaged" / "8").is_dir()


def test_a_reader_of_damaged_checkpoints_changes_nothing(whole):
    folder = whole[1] / "read"
    for step in (4, 8, 12):
        (folder / str(step)).mkdir(parents=True)
        (folder / str(step) / "array").write_text("numbers")
        checkpoints.seals.seal(folder / str(step))
    assert checkpoints.readable_step(folder) == (12, [])
    (folder / "12" / "array").write_text("numberz")
    (folder / "8" / "sha256.json").unlink()
    step, sentences = checkpoints.readable_step(folder)
    assert step == 4 and "12" in sentences[0] and "has changed" in sentences[0] and "is unfinished" in sentences[1]
    assert sorted(os.listdir(folder)) == ["12", "4", "8"]


def test_damaged_lines_of_metrics_are_left_out(whole):
    run, path = whole[0], whole[1] / "zeros"
    train(dataclasses.replace(run, keep_last=3), path)
    file = path / "metrics.jsonl"
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text(first + "\0" * 40 + '\n[1]\n{"kind": "train"}\n' + "".join(rest))
    shutil.rmtree(path / "checkpoints" / "8")
    params, _ = train(run, path)
    assert_as_if_left_alone(whole, path, params)


def test_a_read_that_fails_condemns_no_checkpoint(whole, monkeypatch):
    run, path = whole[0], whole[1] / "unread"
    train(run, path)

    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="cannot be read: Input/output error") as error:
        patch.setattr(checkpoints.seals, "_sha256", fail)
        train(run, path)
    assert one_sentence(error)
    assert checkpoints.steps(path / "checkpoints") == [4, 8] and not (path / "damaged").exists()
    sha256 = checkpoints.seals._sha256
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.seals, "_sha256", lambda p: fail() if f"{os.sep}8{os.sep}" in str(p) else sha256(p))
        step, sentences = checkpoints.readable_step(path / "checkpoints")
    assert step == 4 and "cannot be read" in sentences[0]  # who only reads may have an earlier one


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 400 and text.endswith(".")


def test_a_full_disk_ends_in_one_sentence_and_damages_nothing(whole, monkeypatch, capfd, caplog):
    run, path = whole[0], whole[1] / "full"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(step, values):
        if step == 6:  # every later checkpoint holds more than this
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))

    try:
        with pytest.raises(UserError, match="Cannot write the checkpoint of step [48] .*File too large") as error:
            train(run, path, fill_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert one_sentence(error) and "Traceback" not in capfd.readouterr().err + caplog.text

    with monkeypatch.context() as patch, pytest.raises(UserError, match="and 1,000 are free") as error:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
        train(run, path)
    assert one_sentence(error)

    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device") as error:
        patch.setattr(loop.MetricsWriter, "write", refuse)
        train(run, path)
    assert one_sentence(error)
    params, _ = train(run, path)
    assert_as_if_left_alone(whole, path, params)


def test_a_directory_that_is_read_only_or_in_use_is_left_as_it_is(whole, monkeypatch):
    run, path = whole[0], whole[1] / "busy"
    before = {p: p.read_bytes() for p in (whole[1] / "whole").rglob("*") if p.is_file()}

    def read_only(path, mode="r", **kwargs):
        if mode != "r":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return open(path, mode, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="Read-only file system") as error:
        patch.setattr(directory, "open", read_only, raising=False)
        train(run, whole[1] / "whole")
    assert one_sentence(error)
    assert {p: p.read_bytes() for p in (whole[1] / "whole").rglob("*") if p.is_file()} == before
    with directory.claimed(run, path), pytest.raises(UserError, match="Another process is training in") as error:
        train(run, path)
    assert one_sentence(error)
    assert sorted(os.listdir(path)) == ["commits.txt", "lock", "run.json", "run.txt"]
