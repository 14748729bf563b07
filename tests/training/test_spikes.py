"""A batch that would spoil a training: refused within the step, recorded, and dealt with as the run says, resumed or not."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab import config
from lmlab.cli import main
from lmlab.data.bake import bake
from lmlab.data.batches import TrainBatches, Windows
from lmlab.errors import Interrupted, Stopped, UserError
from lmlab.objectives.next_token import NextToken
from lmlab.training import checkpoints, loop
from lmlab.training.loop import train
from lmlab.training.sharding import batch_sharding, make_mesh, place
from lmlab.training.spikes import Spikes
from lmlab.training.step import State, make_init, make_step
from lmlab.training.totals import Totals
from tests.training import tiny
from tests.training.poisoned import Poisoned
from tests.training.test_resume import at_call


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    folder, old = tmp_path_factory.mktemp("spikes"), os.environ.get("LMLAB_CACHE")
    os.environ["LMLAB_CACHE"] = str(folder / "cache")
    yield folder
    os.environ.pop("LMLAB_CACHE") if old is None else os.environ.update(LMLAB_CACHE=old)


def batches_of(run):
    baked = bake(run.corpus, run.tokenizer)
    return TrainBatches(Windows(baked.split("train"), run.length, baked.tokenizer), run.batch_size, run.seed)


def poisoned(folder, at, spikes, factor=math.inf, **changes):
    """A run whose loss is `factor` times what it should be at these steps."""
    run = tiny.plain(folder, spikes=spikes, **changes)
    sums = [int(batches_of(run).batch(step)["tokens"].sum()) for step in range(run.steps)]
    assert len(set(sums)) == len(sums)
    return dataclasses.replace(run, objective=Poisoned(tuple(sums[s - 1] for s in at), factor))


def lines(path, *kinds):
    every = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [tiny.timeless(line) for line in every if line["kind"] in (kinds or ("train", "evaluation", "spike"))]


def bytes_of(run, steps):
    return sum(int(batches_of(run).batch(step - 1)["target_bytes"].sum()) for step in steps)


def by_hand(run, steps):
    """The state after these steps and no others, each a batch and an update."""
    mesh, optimizer = make_mesh(run.mesh), run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, mesh)
    step_fn, state, batches = make_step(run, optimizer, mesh, shardings), init(jax.random.key(run.seed)), batches_of(run)
    for step in steps:
        state = state.replace(step=jnp.int32(step - 1))
        state, _ = step_fn(state, place(batches.batch(step - 1), batch_sharding(mesh)))
    return state


def final_state(run, path):
    init, shardings = make_init(run, run.optimizer.build(run.steps), make_mesh(run.mesh))
    abstract = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), jax.eval_shape(init, jax.random.key(0)), shardings
    )
    with checkpoints.checkpointer(str(path / "checkpoints"), read_only=True) as saved:
        return checkpoints.restore(saved, abstract)


def assert_same_state(a, b):
    a, b = (s.replace(key=jax.random.key_data(s.key)) for s in (a, b))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


class Killed(Exception):
    pass


def kill_at(at):
    def on_metrics(step, values):
        if step == at:
            raise Killed

    return on_metrics


def test_halt_names_step_and_rows_keeps_checkpoints_and_another_policy_goes_on(folder, capsys):
    run, path = poisoned(folder, [6], Spikes()), folder / "halted"
    rows = batches_of(run).rows(5)
    sentence = f"Step 6 was refused, for loss inf and gradient norm nan on rows {', '.join(map(str, rows[:4]))} and 4 more"
    for _ in range(2):
        with pytest.raises(UserError, match=sentence) as error:
            train(run, path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
        assert checkpoints.steps(path / "checkpoints") == [4]
        (line,) = lines(path, "spike")
        assert (line["step"], line["rows"], line["loss"], line["action"]) == (6, rows, "inf", "halt")
    assert np.isfinite(np.concatenate([np.ravel(p) for p in jax.tree.leaves(final_state(run, path).params)])).all()

    # What was recorded shows the text that the step was fed.
    tokens = batches_of(run).batch(5)["tokens"]
    (path / "run.json").write_text(json.dumps(config.to_json(dataclasses.replace(run, objective=NextToken()))))
    main(["inspect", str(path), "--step", "6"])
    out = capsys.readouterr().out
    assert "refused: loss inf" in out and [f"window {row} of" in out for row in rows] == [True] * 8
    shown = "".join(text for text in out.splitlines() if not text.startswith(("row ", "document ", "refused")))
    for row in tokens:
        for part in "".join(map(chr, row)).split("\xff")[0].split("\xfe")[-1:]:
            assert part.encode("latin1").decode("utf-8", "ignore").strip("\ufffd ") in shown
    for step, said in (("0", "has the steps 1 to 8"), ("9", "has the steps 1 to 8")):
        with pytest.raises(SystemExit):
            main(["inspect", str(path), "--step", step])
        assert said in capsys.readouterr().err
    (path / "run.json").write_text(json.dumps(config.to_json(run)))

    skipping = dataclasses.replace(run, spikes=Spikes("skip"))
    train(skipping, path)
    assert config.load_json(str(path / "run.json"))["spikes"]["policy"] == "skip"
    train(skipping, folder / "skipped")
    assert lines(path) == lines(folder / "skipped")
    assert_same_state(final_state(run, path), final_state(run, folder / "skipped"))


def test_skip_leaves_the_batch_out_of_the_update(folder):
    run, path = poisoned(folder, [6], Spikes("skip")), folder / "skip"
    train(run, path)
    assert_same_state(final_state(run, path), by_hand(run, [1, 2, 3, 4, 5, 7, 8]))
    line = next(line for line in lines(path, "train") if line["step"] == 6)
    assert line["refused"] == 1 and math.isfinite(line["loss"]) and line["flops"] > 0
    whole = tiny.plain(folder)
    counted = lines(path, "train")[-1]
    positions = sum(int(batches_of(run).batch(s)["target_bytes"].sum()) for s in range(8) if s != 5)
    assert counted["bytes"] == positions  # nothing was learned from the rest
    assert counted["learning_rate"] == pytest.approx(whole.optimizer.learning_rate_at(6, 8))


def test_rollback_leaves_out_all_since_the_checkpoint_and_resumes_exactly(folder, monkeypatch):
    run, path = poisoned(folder, [6], Spikes("rollback")), folder / "rollback"
    train(run, path)
    expected = by_hand(run, [1, 2, 3, 4, 7, 8])
    assert_same_state(final_state(run, path), expected)
    (line,) = lines(path, "spike")
    assert (line["step"], line["to"], line["left_out"], line["action"]) == (6, 4, 2, "rollback")
    logged = lines(path, "train")
    assert [line["step"] for line in logged] == [2, 4, 8]  # of 5 and 6 nothing is left
    assert [line["bytes"] for line in logged] == [bytes_of(run, steps) for steps in ([1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 7, 8])]
    assert logged[-1]["refused"] == 2 and logged[-1]["computed_flops"] == 2 * logged[1]["computed_flops"]

    with pytest.raises(Killed):
        train(run, folder / "killed", kill_at(8))  # it has rolled back, and no checkpoint says so
    assert checkpoints.steps(folder / "killed" / "checkpoints") == [4]
    train(run, folder / "killed")

    # Three checkpoints of stops, and the one to roll back to is still there.
    for call, step in ((5, 5), (1, 6), (1, 7)):
        with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"Stopped at step {step};"):
            patch.setattr(loop, "place", at_call(call, loop.place, lambda: os.kill(os.getpid(), signal.SIGTERM)))
            train(run, folder / "stopped")
    assert checkpoints.steps(folder / "stopped" / "checkpoints") == [4, 6, 7]
    train(run, folder / "stopped")
    for other in (folder / "killed", folder / "stopped"):
        assert_same_state(final_state(run, other), expected)
        assert lines(other) == lines(path)


def test_what_was_logged_of_undone_steps_is_counted_no_more(folder):
    """The first rollback undoes a logged line, and the second goes back to where the first ended."""
    run, path = poisoned(folder, [8, 11], Spikes("rollback"), steps=12), folder / "logged"
    train(run, path)
    logged = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in logged if line["kind"] == "train"]
    assert [line["step"] for line in logged] == [2, 4, 6, 10, 12]
    counted = [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9, 10], [1, 2, 3, 4, 12]]
    assert [line["bytes"] for line in logged] == [bytes_of(run, steps) for steps in counted]
    assert all(line["bytes_per_second"] >= 0 and line["steps_per_second"] > 0 for line in logged)
    assert_same_state(final_state(run, path), by_hand(run, [1, 2, 3, 4, 12]))
    for at in (10, 12):  # it goes on from the checkpoint of step 8, which is of an undone interval
        with pytest.raises(Killed):
            train(run, folder / f"logged-{at}", kill_at(at))
        assert checkpoints.steps(folder / f"logged-{at}" / "checkpoints") == [4, 8]
        train(run, folder / f"logged-{at}")
        assert lines(folder / f"logged-{at}") == lines(path)


def test_refused_steps_are_steps_of_the_time_they_took(tmp_path):
    totals = Totals(tmp_path, 0, 10, lambda ratios=(): 1.0)
    for _ in range(3):
        totals.add({"loss": 1.0, "nats": 1.0, "target_bytes": 10, "grad_norm": 1.0})
    totals.add_refused()
    assert totals.values(4, 2.0)["steps_per_second"] == 2.0


def test_a_damaged_checkpoint_is_not_rolled_back_to(folder, monkeypatch):
    run, path = poisoned(folder, [6], Spikes("rollback")), folder / "damaged-rollback"
    with pytest.raises(Stopped):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "place", at_call(5, loop.place, lambda: os.kill(os.getpid(), signal.SIGTERM)))
            train(run, path)
    assert checkpoints.steps(path / "checkpoints") == [4, 5]
    largest = max((p for p in (path / "checkpoints" / "4").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.raises(Interrupted, match="^The checkpoint of step 4 in .* is damaged: .* has changed: training cannot go"):
        train(run, path)


def test_a_first_batch_rolls_back_to_the_beginning(folder):
    run = poisoned(folder, [1, 8], Spikes("rollback"))
    train(run, folder / "first")
    assert_same_state(final_state(run, folder / "first"), by_hand(run, [2, 3, 4]).replace(step=jnp.int32(8)))


@pytest.mark.parametrize(
    "policy, steps, halts", [("skip", [2, 5, 6, 7], 7), ("rollback", [2, 5, 7], 7), ("skip", [2, 3, 5, 6, 8], None)]
)
def test_patience_ends(policy, steps, halts, folder):
    run, path = poisoned(folder, steps, Spikes(policy, patience=2)), folder / f"patience-{policy}-{halts}"
    if halts is None:
        train(run, path)
        assert [line["step"] for line in lines(path, "spike")] == steps
        return
    for _ in range(2):  # the second call begins at a checkpoint among them
        with pytest.raises(UserError, match=f"Step {halts} was refused.* after 2 others"):
            train(run, path)
        assert [(line["step"], line["action"]) for line in lines(path, "spike")][-1] == (halts, "halt")


def test_what_is_above_the_recent_steps_is_refused():
    spikes = Spikes(sigmas=3.0, window=4)
    recent = spikes.nothing_yet()
    for loss in (90.0, 1.0, 1.2, 0.8, 1.0):  # nothing is judged before the window is full
        accepted, recent = spikes.judge(recent, jnp.float32(loss), jnp.float32(2.0))
        assert accepted
    bound = 1.0 + 3 * np.std([1.0, 1.2, 0.8, 1.0])
    for loss, norm, expected in ((bound * 0.999, 2.0, True), (bound * 1.001, 2.0, False), (1.0, 2.1, False), (np.nan, 2.0, False)):
        accepted, after = spikes.judge(recent, jnp.float32(loss), jnp.float32(norm))
        assert bool(accepted) == expected and (expected or np.array_equal(after, recent))
    # Checkpoints of before there was anything to remember can be read.
    state = State(jnp.int32(0), {}, (), jax.random.key(0), Spikes().nothing_yet())
    assert "recent" not in checkpoints._stored(state, jnp.zeros(2))


TWO = """
import dataclasses, json, pathlib, sys
import jax
from lmlab.training.loop import train
from lmlab.training.spikes import Spikes
from tests.training.test_spikes import poisoned
folder = pathlib.Path(sys.argv[1])
assert jax.device_count() == 2
train(poisoned(folder, [6], Spikes("rollback", sigmas=50.0, window=3), 100.0), folder / "two")
"""


def test_a_finite_spike_is_refused_alike_on_one_device_and_two_and_after_a_kill(folder):
    run = poisoned(folder, [6], Spikes("rollback", sigmas=50.0, window=3), 100.0)
    train(run, folder / "one")
    (line,) = lines(folder / "one", "spike")
    assert line["step"] == 6 and line["loss"] > 100
    with pytest.raises(Killed):
        train(run, folder / "one-killed", kill_at(8))
    train(run, folder / "one-killed")
    assert lines(folder / "one-killed") == lines(folder / "one")
    assert_same_state(final_state(run, folder / "one-killed"), final_state(run, folder / "one"))
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    done = subprocess.run([sys.executable, "-c", TWO, str(folder)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    (two,) = lines(folder / "two", "spike")
    decided = ("step", "rows", "action", "to", "left_out")
    assert [two[k] for k in decided] == [line[k] for k in decided]
    assert two["loss"] == pytest.approx(line["loss"], rel=1e-4)


@pytest.mark.parametrize("change", [dict(policy="ignore"), dict(sigmas=-1.0), dict(window=1), dict(patience=0)])
def test_policies_that_are_none(change):
    with pytest.raises(UserError):
        Spikes(**change)
