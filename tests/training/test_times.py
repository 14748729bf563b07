"""Where the wall time goes: phases, rates, goodput over a run that was killed, and traces."""

import dataclasses
import json
import os
import time
import types

import jax
import pytest

from lmlab.errors import UserError
from lmlab.evaluation import bits_per_byte
from lmlab.kernels.chips import CHIPS, peak_flops
from lmlab.models.language_model import count_parameters
from lmlab.training import loop
from lmlab.training.clock import PHASES, STEPS
from lmlab.training.goodput import goodput, planned_bytes
from lmlab.training.loop import train
from lmlab.training.profile import parse_steps
from tests.training import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, old = tmp_path_factory.mktemp("times"), os.environ.get("LMLAB_CACHE")
    os.environ["LMLAB_CACHE"] = str(folder / "cache")
    yield tiny.plain(folder)
    os.environ.pop("LMLAB_CACHE") if old is None else os.environ.update(LMLAB_CACHE=old)


def read(path, *kinds):
    every = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [line for line in every if line["kind"] in kinds] if kinds else every


def slow(monkeypatch, module, name, seconds):
    """Every call of this function takes so much longer."""
    function = getattr(module, name)

    def slower(*args, **kwargs):
        time.sleep(seconds)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, slower)


def test_phases_add_up_to_the_wall_time_and_each_has_its_own(run, tmp_path, monkeypatch):
    slow(monkeypatch, loop, "place", 0.1)  # 8 times
    slow(monkeypatch, loop, "bake", 0.3)  # twice
    slow(monkeypatch, loop.checkpoints, "save", 0.4)  # twice
    slow(monkeypatch, bits_per_byte, "score", 0.2)
    slow(monkeypatch, loop.jax, "device_get", 0.1)  # 8 times
    make_step = loop.make_step

    def make_slow(*args):
        step = make_step(*args)

        class Slow:
            def lower(self, *arguments):
                time.sleep(2.0)
                return step.lower(*arguments)

        return Slow()

    monkeypatch.setattr(loop, "make_step", make_slow)
    monkeypatch.setattr(loop, "peak_flops", lambda devices: 2e9)
    began = time.time()
    train(run, tmp_path / "run", lambda step, values: time.sleep(0.15))  # 4 times
    ended = time.time()

    times = read(tmp_path / "run" / "times.jsonl")
    seconds = {phase: sum(line["seconds"][phase] for line in times) for phase in PHASES}
    assert sum(seconds.values()) == pytest.approx(times[-1]["time"] - began, abs=0.2) and times[-1]["time"] <= ended
    least = {"data": 0.8, "start": 0.6, "checkpoint": 0.8, "device": 0.8, "compile": 2.0, "host": 0.6, "evaluation": 0.4}
    assert all(seconds[phase] >= s for phase, s in least.items()), seconds
    assert seconds["device"] < 2.0 and seconds["host"] < 2.0  # the compilation is in neither

    lines = read(tmp_path / "run" / "metrics.jsonl", "train")
    logged = [line for line in times if line["kind"] == "train"]
    for phase in PHASES:
        upto = sum(line["seconds"][phase] for line in times[: times.index(logged[-1]) + 1])
        assert sum(line[f"seconds/{phase}"] for line in lines) == pytest.approx(upto, abs=0.15)
    assert lines[-1]["seconds"] == pytest.approx(sum(line[f"seconds/{p}"] for line in lines for p in STEPS), abs=0.05)
    before = {"bytes": 0, "flops": 0, "seconds": 0}
    for line in lines:
        elapsed = line["seconds"] - before["seconds"]
        assert line["bytes_per_second"] * elapsed == pytest.approx(line["bytes"] - before["bytes"], rel=0.02)
        assert line["flops_per_second"] * elapsed == pytest.approx(line["flops"] - before["flops"], rel=0.02)
        assert line["utilisation"] == pytest.approx(line["flops_per_second"] / 2e9)
        before = line


def test_planned_memory_is_that_of_the_step_whether_compiled_or_read_from_the_cache(run, tmp_path):
    planned = []
    for name, rows in (("fresh", run.batch_size), ("cached", run.batch_size), ("double", 2 * run.batch_size)):
        short = dataclasses.replace(run, steps=2, evaluate_every=2, checkpoint_every=2, log_every=1, batch_size=rows)
        jax.clear_caches()
        train(short, tmp_path / name)
        planned.append(planned_bytes(tmp_path / name))
    state = 3 * 4 * count_parameters(run.model)  # parameters and AdamW's two moments
    assert state < planned[0] == planned[1] < planned[2] < 2 * planned[0]


def test_goodput_of_a_run_that_was_killed_and_resumed(run, tmp_path, monkeypatch):
    path = tmp_path / "run"
    slow(monkeypatch, loop, "place", 0.1)

    def kill(step, values):
        if step == 6:  # past the checkpoint of step 4
            raise SystemExit

    with pytest.raises(SystemExit):
        train(run, path, kill)
    with open(path / "times.jsonl", "a") as f:
        f.write('{"kind": "tra')
    time.sleep(0.7)
    train(run, path)
    times = read(path / "times.jsonl")
    starts = [i for i, line in enumerate(times) if line["kind"] == "start"]
    assert [times[i]["step"] for i in starts] == [0, 4] and times[-1]["kind"] == "end"

    def spent(lines, *phases):
        return sum(line["seconds"][phase] for line in lines for phase in phases)

    first, second = times[: starts[1]], times[starts[1] :]
    again = spent([line for line in first if line["step"] > 4], *STEPS)
    wall = times[-1]["time"] - times[0]["time"] + spent(times[:1], *PHASES)
    kept = spent(times, *STEPS) - again
    (line,) = read(path / "metrics.jsonl", "goodput")
    assert line["seconds"] == pytest.approx(wall, abs=0.01)
    assert line["seconds/again"] == pytest.approx(again, abs=0.01) and again >= 0.2
    assert line["seconds/kept"] == pytest.approx(kept, abs=0.01) and kept >= 0.8
    assert line["goodput"] == pytest.approx(kept / wall, abs=0.01)
    assert line["seconds/down"] >= 0.7
    assert line["seconds/compile"] == pytest.approx(spent(first + second, "compile"), abs=0.01)
    parts = sum(s for name, s in line.items() if name.startswith("seconds/"))
    assert parts == pytest.approx(wall, abs=0.05)
    assert "utilisation" not in read(path / "metrics.jsonl", "train")[0]  # nobody knows what this CPU can do

    before = (path / "times.jsonl").read_text()
    train(run, path)  # a finished run goes on counting nothing
    assert (path / "times.jsonl").read_text() == before and read(path / "metrics.jsonl", "goodput") == [line]
    assert goodput(tmp_path) == {}


def test_the_steps_of_a_rollback_are_not_kept(tmp_path):
    def line(kind, step, time, **more):
        return {"kind": kind, "step": step, "time": time, "seconds": dict.fromkeys(PHASES, 0.0) | more}

    rows = [
        line("start", 0, 10.0, start=10.0),
        line("train", 2, 14.0, compile=2.0, device=2.0),
        line("train", 4, 16.0, device=1.5, host=0.5),
        line("rollback", 5, 18.0, device=1.0, checkpoint=1.0) | {"to": 2},
        line("train", 6, 19.0, data=1.0),
    ]
    (tmp_path / "times.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = goodput(tmp_path)
    assert (values["seconds/kept"], values["seconds/again"], values["seconds"]) == (3.0, 3.0, 19.0)
    assert values["goodput"] == pytest.approx(3 / 19, abs=1e-4) and values["seconds/down"] == 0


def test_a_trace_of_the_steps_that_are_asked_for(run, tmp_path, capsys):
    path = tmp_path / "run"
    train(run, path, profile=(3, 5))
    assert f"The trace of steps 3 to 4 is in {path / 'profile'}." in capsys.readouterr().err
    assert list((path / "profile").rglob("*.xplane.pb"))
    train(run, path, profile=(3, 5))
    assert "Nothing is traced: step 4 was done before, and the run goes on after step 8." in capsys.readouterr().err
    with pytest.raises(UserError, match="past the end: the run has 8 steps"):
        train(run, path, profile=(3, 10))


@pytest.mark.parametrize("text", ["", "5", "5:5", "0:3", "a:b", "-1:3", "3:5:7"])
def test_steps_that_are_none(text):
    with pytest.raises(UserError, match="--profile takes steps as FIRST:END"):
        parse_steps(text)
    assert parse_steps("100:105") == (100, 105)


def test_the_peak_of_devices_that_are_known():
    def device(kind):
        return types.SimpleNamespace(device_kind=kind)

    assert peak_flops([device("TPU v5 lite"), device("TPU v5")]) == CHIPS["v5e"].flops + CHIPS["v5p"].flops
    assert peak_flops([device("TPU v4"), device("TPU v99")]) is None
    assert peak_flops(jax.devices()) is None
