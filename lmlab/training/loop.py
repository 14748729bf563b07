"""Training from a `Run` to a run directory, top to bottom."""

import contextlib
import dataclasses
import json
import math
import os
import sys
import time

import jax

from lmlab.data.bake import bake
from lmlab.data.batches import TrainBatches
from lmlab.errors import Interrupted, Stopped, UserError
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data
from lmlab.training import checkpoints, processes
from lmlab.training.directory import check, claimed, mark, pin, shared
from lmlab.training.precision import compute_copy
from lmlab.training.sharding import batch_sharding, check_rows, local_rows, make_mesh, place, place_whole
from lmlab.training.signals import StopSignal
from lmlab.training.step import make_init, make_step
from lmlab.training.watchdog import Watchdog
from lmlab.training.writer import MetricsWriter


def train(run, directory, on_metrics=lambda step, values: None):
    """Train `run` in `directory`, resuming exactly where an earlier call stopped.

    Returns (params, data) at the end of the run; `on_metrics(step, values)` sees every logged line. With several
    processes all call this, and the first writes the run directory. A run that comes after another trains that first, in
    `directory`-before. UserError if the directory holds another run, is
    in use or cannot be written, if the corpus has changed or lacks a split that is evaluated, or if mesh and batch do
    not fit the devices. `Stopped` after SIGTERM or Ctrl-C, once what was done is saved.
    """
    mesh = make_mesh(run.mesh)
    check_rows(run, mesh)
    before = None
    if run.after is not None:
        processes.first(lambda: check(run, directory))
        before, _ = train(run.after, os.fspath(directory).rstrip("/") + "-before")
    with StopSignal() as stop, contextlib.ExitStack() as stack:
        processes.first(lambda: check(run, directory))
        # The others find what the first has baked, or bake a copy of their own where they share no file system.
        processes.first(lambda: bake(run.corpus, run.tokenizer))
        baked = processes.everywhere(lambda: bake(run.corpus, run.tokenizer))
        for split in {"train", "validation"} | {e.split for e in run.evaluators}:
            baked.split(split)  # a UserError now, not after the training
        (token,) = processes.from_first(int.from_bytes(os.urandom(3)))
        processes.first(lambda: (stack.enter_context(claimed(run, directory)), mark(directory, token)))
        processes.first(lambda: pin(directory, baked))
        processes.everywhere(lambda: (shared(directory, token), pin(directory, baked)))
        watch = stack.enter_context(Watchdog())

        def between_batches():
            watch.wait_for("a batch of an evaluation")
            stop.check()

        data = Data(
            baked, run.length, run.batch_size, run.corruption, lambda b: place_whole(b, batch_sharding(mesh)),
            between_batches,
        )
        try:
            params = _train(run, directory, data, mesh, stop, watch, on_metrics, before)
        except OSError as error:
            raise Interrupted(
                f"Training in {directory} failed: {error.strerror or error}. What was saved before is kept, and the "
                "same command resumes."
            ) from error
    return params, dataclasses.replace(data, check=lambda: None)


def _train(run, directory, data, mesh, stop, watch, on_metrics, before):
    optimizer = run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, mesh)
    step_fn = make_step(run, optimizer, mesh, shardings)
    sharding = batch_sharding(mesh)
    batches = TrainBatches(data.windows("train"), run.batch_size, run.seed, local_rows(sharding, run.batch_size))
    validate = BitsPerByte("validation")

    def flops_per_step(ratios=()):
        """Backward = 2 x forward; chunks as planned, or at `ratios`."""
        return 3 * sum(run.flops(ratios).values()) * run.batch_size * run.length

    folder = os.path.join(os.path.abspath(directory), "checkpoints")
    warnings = processes.first(lambda: checkpoints.set_aside(folder))
    with checkpoints.checkpointer(folder, run.keep_last, run.keep_every) as saved:
        watch.wait_for("the checkpoint to resume from")
        step = checkpoints.latest_step(saved)
        if step is None:
            step, state = 0, init(jax.random.key(run.seed))
            if before is not None:
                state = state.replace(params=jax.device_put(before, shardings.params))
        else:
            abstract = jax.tree.map(
                lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
                jax.eval_shape(init, jax.random.key(0)),
                shardings,
            )
            state = checkpoints.restore(saved, abstract)
        # A run that was stopped in an evaluation has still to do it.
        (evaluated,) = processes.from_first(_last_line(directory, step, "evaluation").get("step", 0) == step)
        writer = MetricsWriter(directory, step) if processes.is_first() else None
        clock = Clock(directory, step)
        totals = Totals(directory, step)
        pending = None

        def write(kind, step, values):
            if writer is not None:
                writer.write(kind, step, values)

        def save(step, wait):
            watch.wait_for(f"the checkpoint of step {step}")
            if writer is not None:
                writer.sync()
            checkpoints.save(saved, state, step, wait)

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
            write("train", step, values)
            if processes.is_first():
                on_metrics(step, values)

        def evaluate(step):
            with clock.paused():
                values = validate(run.model, compute_copy(state.params, run.precision), data)
            at = {k: totals.last[k] for k in ("bytes", "flops", "seconds")}
            write("evaluation", step, {"split": "validation"} | values | at)

        for sentence in warnings or ():
            print(f"lmlab: {sentence}", file=sys.stderr, flush=True)
            write("warning", step, {"text": sentence})
        stop.defer(processes.anywhere())
        stream = batches.iterate(step)
        try:
            if not evaluated and _is_due(step, run.evaluate_every, run.steps):
                evaluate(step)
            while step < run.steps:
                stop.check()
                watch.wait_for(f"the batch of step {step + 1}")
                batch = next(stream)
                watch.wait_for(f"step {step + 1}")
                state, metrics = step_fn(state, place(batch, sharding))
                step += 1
                if pending is not None:
                    log(*pending)
                pending = (step, metrics)
                evaluates = _is_due(step, run.evaluate_every, run.steps)
                saves = _is_due(step, run.checkpoint_every, run.steps)
                if evaluates or saves:
                    log(*pending)
                    pending = None
                if evaluates:
                    evaluate(step)
                if saves:
                    with clock.paused():
                        save(step, wait=step == run.steps)
            stop.check()
        except Stopped:
            if pending is not None:
                log(*pending)
            write("stopped", step, totals.unlogged() | {"seconds": round(clock.seconds(), 3)})
            if step:
                save(step, wait=True)
            raise Stopped(f"Stopped at step {step}; the same command resumes.") from None
        finally:
            stream.close()
            if writer is not None:
                writer.close()
    return state.params


def _is_due(step, every, last):
    return step > 0 and (step % every == 0 or step == last)


class Clock:
    """Seconds of training over the life of a run: evaluations, checkpoints and time between restarts left out."""

    def __init__(self, directory, start):
        self._before = _last_line(directory, start, "train", "stopped").get("seconds", 0.0)
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
        last = _last_line(directory, start, "train")
        self.last = {name: last.get(name, 0) for name in ("bytes", "seconds", "flops", "computed_flops")}
        self._sums, self._steps = {}, 0
        stopped = _last_line(directory, start, "stopped")
        if start not in (0, last.get("step"), stopped.get("step")) and processes.is_first():
            print(f"lmlab: the metrics of {directory} end before step {start}; its totals begin anew.", file=sys.stderr)
        if stopped.get("step") == start:
            self._sums, self._steps = stopped["sums"], stopped["steps"]

    def unlogged(self):
        """What a resumed run needs to log the line that it was stopped in."""
        return {"sums": self._sums, "steps": self._steps}

    def add(self, metrics):
        """One step's metrics, as NumPy scalars."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._steps += 1

    def values(self, step, seconds, positions, flops_per_step):
        """The logged line of the steps since the last one, each of `positions` tokens.

        A sum whose counterpart is called <name>_of is logged as their ratio.
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
            "steps_per_second": n / max(1e-9, seconds - self.last["seconds"]),
            "grad_norm": s["grad_norm"] / n,
        }
        parts = [name.removeprefix("grad_square/") for name in s if name.startswith("grad_square/")]
        values |= {f"grad_norm/{part}": math.sqrt(s[f"grad_square/{part}"] / n) for part in parts}
        values |= {name: s[name] / max(1.0, s[f"{name}_of"]) for name in s if f"{name}_of" in s}
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


def _last_line(directory, start, *kinds):
    """The last metrics line of these kinds at or before step `start`, or nothing."""
    path, line = os.path.join(directory, "metrics.jsonl"), {}
    if start and os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for text in f:
                values = json.loads(text) if text.endswith("\n") else {"kind": "torn"}
                if values["kind"] in kinds and values["step"] <= start:
                    line = values
    return line
