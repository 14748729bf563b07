"""Training from a `Run` to a run directory, top to bottom."""

import json
import math
import os
import time

import jax

from lmlab.data.bake import bake
from lmlab.data.batches import TrainBatches, Windows
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data
from lmlab.training import checkpoints
from lmlab.training.directory import check, claimed, pin
from lmlab.training.precision import compute_copy
from lmlab.training.sharding import batch_sharding, check_rows, make_mesh, place
from lmlab.training.step import make_init, make_step
from lmlab.training.writer import MetricsWriter


def train(run, directory, on_metrics=lambda step, values: None):
    """Train `run` in `directory`, resuming exactly where an earlier call stopped.

    Returns (params, data) at the end of the run; `on_metrics(step, values)` sees every logged line. UserError if the
    directory holds another run or is in use, if the corpus has changed or lacks a split that is evaluated, or if mesh
    and batch do not fit the devices.
    """
    if jax.process_count() > 1:
        raise UserError("Training takes one process for now: the run directory is written by all of them otherwise.")
    mesh = make_mesh(run.mesh)
    check_rows(run, mesh)
    check(run, directory)
    baked = bake(run.corpus, run.tokenizer)
    for split in {"train", "validation"} | {e.split for e in run.evaluators}:
        baked.split(split)  # a UserError now, not after the training
    with claimed(run, directory):
        pin(directory, baked)
        return _train(run, directory, Data(baked, run.length, run.batch_size), mesh, on_metrics)


def _train(run, directory, data, mesh, on_metrics):
    optimizer = run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, mesh)
    step_fn = make_step(run, optimizer, mesh, shardings)
    batches = TrainBatches(
        data.windows("train"), run.batch_size, run.seed, jax.process_index(), jax.process_count()
    )
    validate = BitsPerByte("validation")

    def flops_per_step(ratios=()):
        """Backward = 2 x forward; chunks as planned, or at `ratios`."""
        return 3 * sum(run.model.flops(run.length, ratios).values()) * run.batch_size * run.length

    with checkpoints.checkpointer(os.path.join(os.path.abspath(directory), "checkpoints")) as saved:
        start = checkpoints.latest_step(saved)
        if start is None:
            start, state = 0, init(jax.random.key(run.seed))
        else:
            abstract = jax.tree.map(
                lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
                jax.eval_shape(init, jax.random.key(0)),
                shardings,
            )
            state = checkpoints.restore(saved, abstract)
        writer = MetricsWriter(directory, start)
        clock = Clock(directory, start)
        totals = Totals(directory, start)

        def log(step, metrics):
            """Called one step late, so that the device never waits for the host."""
            totals.add(jax.device_get(metrics))
            if step % run.log_every and step != run.steps:
                return
            values = totals.values(step, clock.seconds(), run.batch_size * run.length, flops_per_step)
            values["learning_rate"] = run.optimizer.learning_rate_at(step - 1, run.steps)
            for name in ("loss", "grad_norm"):
                if not math.isfinite(values[name]):
                    raise UserError(f"{name} is {values[name]} at step {step}; the checkpoints before it are kept.")
            writer.write("train", step, values)
            on_metrics(step, values)

        pending = None
        stream = batches.iterate(start)
        for step in range(start + 1, run.steps + 1):
            state, metrics = step_fn(state, place(next(stream), batch_sharding(mesh)))
            if pending is not None:
                log(*pending)
            pending = (step, metrics)
            last = step == run.steps
            evaluates, saves = step % run.evaluate_every == 0 or last, step % run.checkpoint_every == 0 or last
            if evaluates or saves:
                log(*pending)
                pending = None
            if evaluates:
                with clock.paused():
                    values = validate(run.model, compute_copy(state.params, run.precision), data)
                at = {k: totals.last[k] for k in ("bytes", "flops", "seconds")}
                writer.write("evaluation", step, {"split": "validation"} | values | at)
            if saves:
                with clock.paused():
                    checkpoints.save(saved, state, step, wait=last)
        stream.close()
        writer.close()
    return state.params, data


class Clock:
    """Seconds of training over the life of a run: evaluations, checkpoints and time between restarts left out."""

    def __init__(self, directory, start):
        self._before = _last_line(directory, start).get("seconds", 0.0)
        self._since, self._paused = time.monotonic(), 0.0

    def seconds(self):
        """Until now."""
        return self._before + time.monotonic() - self._since - self._paused

    def paused(self):
        """Context whose duration does not count."""
        clock = self

        class Pause:
            def __enter__(self):
                self.entered = time.monotonic()

            def __exit__(self, *error):
                clock._paused += time.monotonic() - self.entered

        return Pause()


class Totals:
    """Sums of the step's metrics since the last logged line, and the bytes and FLOPs of the whole run."""

    def __init__(self, directory, start):
        last = _last_line(directory, start)
        self.last = {name: last.get(name, 0) for name in ("bytes", "seconds", "flops", "computed_flops")}
        self._sums, self._steps = {}, 0

    def add(self, metrics):
        """One step's metrics, as NumPy scalars."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._steps += 1

    def values(self, step, seconds, positions, flops_per_step):
        """The logged line of the steps since the last one, each of `positions` tokens.

        `flops`: at the planned number of chunks; `computed_flops`: of all slots, filled or not, without what is
        computed again backward.
        """
        s, n = self._sums, self._steps
        values = {
            "bytes": self.last["bytes"] + int(s["target_bytes"]),
            "flops": flops_per_step() * step,
            "seconds": round(seconds, 3),
            "loss": s["loss"] / n,
            "bpb": s["nats"] / (math.log(2) * max(1.0, s["target_bytes"])),
            "bytes_per_second": s["target_bytes"] / max(1e-9, seconds - self.last["seconds"]),
            "grad_norm": s["grad_norm"] / n,
        }
        parts = [name.removeprefix("grad_square/") for name in s if name.startswith("grad_square/")]
        values |= {f"grad_norm/{part}": math.sqrt(s[f"grad_square/{part}"] / n) for part in parts}
        stage, ratios, before = 0, [], n * positions
        while f"stage{stage}/starts" in s:
            p = f"stage{stage}/"
            seen = max(1.0, s[p + "positions"])
            values[p + "F"] = s[p + "starts"] / seen
            values[p + "G"] = s[p + "probability"] / seen
            values[p + "bytes_per_chunk"] = s["target_bytes"] / max(1.0, s[p + "starts"])
            values[p + "overflow"] = s[p + "overflow"] / max(1.0, s[p + "starts"])
            values[p + "filled"] = (s[p + "starts"] - s[p + "overflow"]) / max(1.0, s[p + "slots"])
            ratios.append(before / s[p + "slots"])
            before = s[p + "slots"]
            stage += 1
        values["computed_flops"] = self.last["computed_flops"] + n * flops_per_step(tuple(ratios))
        self.last = {name: values[name] for name in self.last}
        self._sums, self._steps = {}, 0
        return values


def _last_line(directory, start):
    """The last training line at or before step `start`, or nothing."""
    path, line = os.path.join(directory, "metrics.jsonl"), {}
    if start and os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for text in f:
                values = json.loads(text) if text.endswith("\n") else {"kind": "torn"}
                if values["kind"] == "train" and values["step"] <= start:
                    line = values
    return line

