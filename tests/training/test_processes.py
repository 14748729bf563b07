"""Two real processes, over loopback: they train as one does, stop together, fail together, and hang aloud."""

import fcntl
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util

import lmlab
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.runner import load_data
from tests.training import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]

COMMON = """
import dataclasses, functools, os, pathlib, resource, signal, sys, time
import jax, numpy as np
from flax import traverse_util
from lmlab.data.corruptions import SpanCorruption
from lmlab.errors import Stopped, UserError
from lmlab.models.encoder_decoder import t5
from lmlab.runner import run_arm
from lmlab.training import checkpoints, loop, processes, watchdog
from tests.training import tiny

folder = pathlib.Path(sys.argv[1])
run = tiny.plain(folder)
hnet = tiny.run(folder, steps=3, evaluate_every=3, checkpoint_every=3, log_every=1)
# Exact: the processes must choose the same capacity.
hnet = dataclasses.replace(hnet, model=hnet.model.clone(backbone=hnet.model.backbone.clone(capacity=(0.6, 1.2))))
short = tiny.plain(folder, steps=2, evaluate_every=2, checkpoint_every=2, log_every=1)
spans = dataclasses.replace(short, model=t5(272, (1, 1), 16, 32, 2, 8), corruption=SpanCorruption(mean_span=3.0))
second = dataclasses.replace(short, after=dataclasses.replace(short, seed=1))

def train(name, stop_at=None, run=run, act=lambda: os.kill(os.getpid(), signal.SIGTERM)):
    place, calls = loop.place, []
    def counted(*args):
        calls.append(None)
        if len(calls) == stop_at:
            act()
        return place(*args)
    loop.place = counted
    try:
        params, _ = loop.train(run, folder / name)
        flat = traverse_util.flatten_dict(processes.gather(params), sep="/")
        return {k: np.asarray(v) for k, v in flat.items()}
    except (Stopped, UserError) as error:
        print(type(error).__name__, error, flush=True)
    finally:
        loop.place = place
"""

ALONE = COMMON + """
np.savez(folder / "whole.npz", **train("whole"))
np.savez(folder / "hnet.npz", **train("hnet", run=hnet))
np.savez(folder / "spans.npz", **train("spans", run=spans))
np.savez(folder / "second.npz", **train("second", run=second))
train("parts", stop_at=3)
sys.stdin.readline()
np.savez(folder / "parts.npz", **train("parts"))
"""

TOGETHER = COMMON + """
me = int(sys.argv[2])
processes.join(sys.argv[3], 2, me)
assert train("busy") is None
result = run_arm(run, str(folder / "pair"), "plain")
assert (result is None) == (me == 1)
assert train("parts", stop_at=2 if me == 1 else None) is None  # only one of the two is asked to stop
np.savez(folder / f"hnet{me}.npz", **train("hnet_pair", run=hnet))
np.savez(folder / f"spans{me}.npz", **train("spans_pair", run=spans))
np.savez(folder / f"second{me}.npz", **train("second_pair", run=second))

shared, loop.shared = loop.shared, functools.partial(loop.shared, patience=0.5)
assert train(f"apart{me}") is None
loop.shared = shared

limits, checkpoints.PATIENCE = resource.getrlimit(resource.RLIMIT_FSIZE), 5
fill = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, limits[1]))
assert train("full", stop_at=3 if me == 1 else None, act=fill) is None
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
checkpoints.PATIENCE = 600
assert train("full") is not None

def hang(*args):
    if me == 1:
        time.sleep(1000)
    watchdog.SECONDS = 3
    return place(*args)

place, loop.place = loop.place, hang
train("hung")
"""


def python(code, *args, devices=1):
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "LMLAB_CACHE": str(args[0] / "cache"),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def metrics(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    kinds = ("train", "evaluation")
    return [tiny.timeless(line) for line in lines if line["kind"] in kinds]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """(folder, [(exit code, stdout, stderr)] of the run alone and of the two together)."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "busy").mkdir()
    with open(folder / "busy" / "lock", "w") as lock, socket.socket() as free:
        fcntl.flock(lock, fcntl.LOCK_EX)
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        alone = python(ALONE, folder, devices=2)
        stopped = alone.stdout.readline()
        assert stopped.startswith("Stopped"), alone.communicate()[1][-3000:]
        children = [python(TOGETHER, folder, process, address) for process in (0, 1)]
        out, err = children[0].communicate(timeout=600)
        children[1].kill()  # it waits for nobody, and so does not end by itself
        together = [(out, err, children[0].returncode), (*children[1].communicate(), None)]
        out, err = alone.communicate("go\n", timeout=600)
    return folder, [(stopped + out, err, alone.returncode), *together]


def test_two_processes_equal_one(outcome):
    """Bit for bit: one process with two devices and two with one each add the same two numbers."""
    folder, results = outcome
    assert results[0][2] == 0, results[0][1]
    whole = np.load(folder / "whole.npz")
    parts = np.load(folder / "parts.npz")  # one process to step 3, two to step 6, one to the end
    model, pair = lmlab.load(str(folder / "pair"))
    pair = traverse_util.flatten_dict(pair, sep="/")
    assert set(pair) == set(parts) == set(whole)
    for key, value in whole.items():
        np.testing.assert_array_equal(parts[key], value, err_msg=key)
        np.testing.assert_array_equal(pair[key], value, err_msg=key)
    assert metrics(folder / "parts") == metrics(folder / "pair") == metrics(folder / "whole")


@pytest.mark.parametrize("name", ["hnet", "spans", "second"])
def test_two_processes_equal_one_for_other_runs(name, outcome):
    """A hierarchy, whose capacity depends on the rows of both; a model whose sources and targets differ in length; a run
    that goes on from the parameters of another."""
    folder = outcome[0]
    alone = np.load(folder / f"{name}.npz")
    for process in (0, 1):
        together = np.load(folder / f"{name}{process}.npz")
        assert set(together) == set(alone)
        for key, value in alone.items():
            np.testing.assert_array_equal(together[key], value, err_msg=key)
    assert metrics(folder / f"{name}_pair") == metrics(folder / name)
    assert name != "hnet" or any("stage0/filled" in line for line in metrics(folder / name))


def test_an_evaluation_split_over_processes_equals_one(outcome, monkeypatch):
    folder = outcome[0]
    monkeypatch.setenv("LMLAB_CACHE", str(folder / "cache"))
    result = json.loads((folder / "pair" / "result.json").read_text())
    model, params = lmlab.load(str(folder / "pair"))
    alone = BitsPerByte("test")(model, params, load_data(tiny.plain(folder)))
    np.testing.assert_allclose(result["metrics"]["bpb"], alone["bpb"], rtol=1e-6)


def test_all_stop_at_the_same_step_when_one_is_asked_to(outcome):
    said = [[line for line in out.splitlines() if line.startswith("Stopped")] for out, _, _ in outcome[1]]
    assert said[0] == ["Stopped Stopped at step 3; the same command resumes."]
    assert said[1] == said[2] == ["Stopped Stopped at step 6; the same command resumes."]


def test_a_refusal_reaches_all(outcome):
    for out, _, _ in outcome[1][1:]:
        assert "UserError Another process is training in" in out


def test_directories_that_are_not_shared_are_refused_in_all(outcome):
    folder, results = outcome
    for out, _, _ in results[1:]:
        said = [line for line in out.splitlines() if "is not on a file system that all processes share." in line]
        assert said == [f"UserError {folder / 'apart1'} is not on a file system that all processes share."]
    assert not (folder / "apart1").exists() and not (folder / "apart0" / "metrics.jsonl").exists()


def test_a_failed_save_reaches_all_and_damages_nothing(outcome):
    """The second process's disk is full; the first would wait for its part."""
    folder, results = outcome
    said = [[line for line in out.splitlines() if "Cannot write" in line] for out, _, _ in results[1:]]
    where = f"Interrupted Cannot write the checkpoint of step 4 in {folder / 'full' / 'checkpoints'}: "
    assert said[0] == [where + "not every process has written its part in time. The earlier ones are kept."]
    assert said[1] == [where + "File too large. The earlier ones are kept."]
    assert metrics(folder / "full") == metrics(folder / "whole")


def test_waiting_for_a_process_that_hangs_ends_with_a_name_and_stacks(outcome):
    _, err, code = outcome[1][1]
    assert code == 70, err[-3000:]
    assert re.search("lmlab: waited 3 seconds for (the batch of )?step [12]; what every thread is doing", err)
    assert "loop.py" in err and "in _train" in err
