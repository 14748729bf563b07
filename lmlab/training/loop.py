"""Training from a `Run` to a run directory, top to bottom."""

import contextlib
import dataclasses
import os

import jax
import numpy as np

from lmlab.data.bake import bake
from lmlab.data.batches import TrainBatches
from lmlab.errors import Diverged, Interrupted, Stopped, UserError
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data
from lmlab.kernels.chips import peak_flops
from lmlab.training import checkpoints, precursors, processes
from lmlab.training.clock import Clock
from lmlab.training.directory import check, claimed, mark, pin, shared
from lmlab.training.goodput import Times, goodput
from lmlab.training.precision import compute_copy
from lmlab.training.profile import Profile, check_steps, say
from lmlab.training.sharding import (
    batch_sharding,
    check_rows,
    local_rows,
    make_mesh,
    place,
    place_whole,
    row_sharding,
)
from lmlab.training.signals import StopSignal
from lmlab.training.spikes import Refused
from lmlab.training.step import make_init, make_step, peak_bytes
from lmlab.training.totals import Totals
from lmlab.training.watchdog import BAKING, Watchdog
from lmlab.training.writer import MetricsWriter, last_line


def train(run, directory, on_metrics=lambda step, values: None, profile=None):
    """Train `run` in `directory`, resuming exactly where an earlier call stopped.

    Returns (params, data) at the end of the run; `on_metrics(step, values)` sees every logged line. With several
    processes all call this, and the first writes the run directory. A run that comes after another trains that first, in
    `directory`-before, and so the teacher of its objective in `directory`-teacher and its donor in `directory`-donor; none
    is looked at once there is a checkpoint to go on from. UserError if the directory holds another run, is in use or
    cannot be written, if the corpus has changed or lacks a split that is evaluated, if mesh and batch do not fit the
    devices or a teacher the run, and where `run.spikes` says so after a step that was refused; `Interrupted` where a
    checkpoint to roll back to is damaged. `Stopped` after SIGTERM or Ctrl-C, once what was done is saved. `profile`:
    (first, end), steps to trace.
    """
    check_steps(profile, run)
    mesh = make_mesh(run.mesh)
    check_rows(run, mesh)
    processes.everywhere(lambda: [e.check(run) for e in run.evaluators if hasattr(e, "check")])
    before = precursors.trained(run, directory, train)
    clock = Clock()
    with StopSignal() as stop, contextlib.ExitStack() as stack:
        watch = stack.enter_context(Watchdog("the processes to look at the run directory"))
        processes.first(lambda: check(run, directory))
        watch.wait_for("the corpus to be baked", BAKING)
        # The others find what the first has baked, or bake a copy of their own where they share no file system.
        processes.first(lambda: bake(run.corpus, run.tokenizer))
        baked = processes.everywhere(lambda: bake(run.corpus, run.tokenizer))
        for split in {"train", "validation"} | {e.split for e in run.evaluators if hasattr(e, "split")}:
            baked.split(split)  # a UserError now, not after the training
        watch.wait_for("the processes to share the run directory")
        (token,) = processes.from_first(int.from_bytes(os.urandom(3)))
        processes.first(lambda: (stack.enter_context(claimed(run, directory)), mark(directory, token)))
        processes.first(lambda: pin(directory, baked))
        processes.everywhere(lambda: (shared(directory, token), pin(directory, baked)))

        def between_batches():
            watch.wait_for("a batch of an evaluation")
            stop.check()

        data = Data(
            baked,
            run.length,
            run.batch_size,
            run.corruption,
            lambda b: place_whole(b, row_sharding(mesh)),
            between_batches,
        )
        try:
            params = _train(run, directory, data, mesh, stop, watch, clock, on_metrics, profile, before)
        except OSError as error:
            raise Interrupted(
                f"Training in {directory} failed: {error.strerror or error}. What was saved before is kept, and the "
                "same command resumes."
            ) from error
    return params, dataclasses.replace(data, check=lambda: None)


def _train(run, directory, data, mesh, stop, watch, clock, on_metrics, profile, before):
    optimizer = run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, mesh)
    step_fn = make_step(run, optimizer, mesh, shardings)
    sharding = batch_sharding(mesh)
    batches = TrainBatches(data.windows("train"), run.batch_size, run.seed, local_rows(sharding, run.batch_size))
    validate = BitsPerByte("validation")
    abstract = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        jax.eval_shape(init, jax.random.key(0)),
        shardings,
    )

    def flops_per_step(ratios=()):
        """Backward = 2 x forward; chunks as planned, or at `ratios`. Who reads no text says their own."""
        if hasattr(run.objective, "step_flops"):
            return 3 * run.objective.step_flops(run.model)
        return 3 * sum(run.flops(ratios).values()) * run.batch_size * run.length

    def first():
        """The state before the first step."""
        return precursors.begin(run, init(jax.random.key(run.seed)), shardings, data.baked.tokenizer, before)

    folder = checkpoints.folder(directory)
    watch.wait_for("the checkpoints to be looked at")
    warnings = processes.first(lambda: checkpoints.set_aside(folder))
    with (
        checkpoints.checkpointer(folder, run.keep_last, run.keep_every, periodic=run.checkpoint_every) as saved,
        contextlib.ExitStack() as stack,
    ):
        watch.wait_for("the checkpoint to resume from")
        step = checkpoints.latest_step(saved)
        if step is None:
            step, state = 0, first()
        else:
            state = checkpoints.restore(saved, abstract)
        # A run that was stopped in an evaluation has still to do it.
        (evaluated,) = processes.from_first(last_line(directory, step, "evaluation").get("step", 0) == step)
        refused = Refused(run, directory, step)
        totals = Totals(directory, step, run.batch_size * run.length, flops_per_step, peak_flops(mesh.devices.flat))
        clock.before = last_line(directory, step, "train", "stopped").get("seconds", 0.0)
        tracer = stack.enter_context(contextlib.closing(Profile(profile, directory, step)))
        unfinished = step < run.steps or not evaluated
        writer = times = pending = None
        if processes.is_first():
            writer = stack.enter_context(contextlib.closing(MetricsWriter(directory, step)))
        if processes.is_first() and unfinished:
            times = stack.enter_context(contextlib.closing(Times(directory, clock)))

        def write(kind, step, values):
            if writer is not None:
                writer.write(kind, step, values)

        def note(kind, step, **more):
            if times is not None:
                times.add(kind, step, **more)

        def save(step, wait):
            watch.wait_for(f"the checkpoint of step {step}")
            with clock("checkpoint"):
                if writer is not None:
                    writer.sync()
                checkpoints.save(saved, state, step, wait)
            note("checkpoint", step)

        def log(step, metrics):
            """Called one step late, so that the device never waits for the host. Returns the step to roll back to, if
            that is what this one asks for."""
            with clock("device"):
                metrics = jax.device_get(metrics)
            back = None
            if metrics.pop("spike"):
                line = refused.add(step, metrics["loss"], metrics["grad_norm"], batches.rows(step - 1))
                totals.add_refused()
                if line["action"] == "rollback":
                    totals.roll_back(line["to"])
                write("spike", step, line)
                if line["action"] == "halt":
                    note("halt", step)
                    raise Diverged(refused.sentence(line))
                say(refused.sentence(line))
                back = line.get("to")
            else:
                totals.add(metrics)
            logged = step % run.log_every == 0 or step == run.steps
            if logged and (values := totals.values(step, clock.training())):
                updates = step - 1 - refused.left_out(step)
                values["learning_rate"] = run.optimizer.learning_rate_at(max(0, updates), run.steps)
                values |= {f"seconds/{phase}": round(s, 4) for phase, s in clock.lap("train").items()}
                write("train", step, values)
                note("train", step)
                if processes.is_first():
                    on_metrics(step, values)
            return back

        def rolled_back(step, to):
            """The state of step `to` as that of `step`: the batches between them are left out."""
            watch.wait_for(f"the checkpoint of step {to} to roll back to")
            with clock("checkpoint"):
                processes.everywhere(saved.wait)
                if to:
                    processes.first(lambda: checkpoints.require_whole(folder, to))
                state = checkpoints.restore(saved, abstract, to) if to else first()
            note("rollback", step, to=to)
            return state.replace(step=state.step + np.int32(step - to))

        def evaluate(step):
            with clock("evaluation"):
                values = validate(run.model, compute_copy(state.params, run.precision), data)
            at = {k: totals.last[k] for k in ("bytes", "flops", "seconds")}
            write("evaluation", step, {"split": "validation"} | values | at)
            note("evaluation", step)

        for sentence in warnings or ():
            say(sentence)
            write("warning", step, {"text": sentence})
        note("start", step)
        stop.defer(processes.anywhere())
        stream = batches.iterate(step)
        compiled = None
        clock.enter("host")
        try:
            if not evaluated and _is_due(step, run.evaluate_every, run.steps):
                evaluate(step)
            while step < run.steps:
                stop.check()
                watch.wait_for(f"the batch of step {step + 1}")
                with clock("data"):
                    batch = place(next(stream), sharding)
                watch.wait_for(f"step {step + 1}")
                if compiled is None:
                    with clock("compile"):
                        compiled = step_fn.lower(state, batch).compile()
                    note("compiled", step, peak_bytes=peak_bytes(compiled))
                with tracer.before(step + 1), clock("device"):
                    state, metrics = compiled(state, batch)
                step += 1
                if pending is not None and (back := log(*pending)) is not None:
                    # The step that has just begun is of a state that is given up.
                    step, pending = pending[0], None
                    state = rolled_back(step, back)
                    stream.close()
                    stream = batches.iterate(step)
                    continue
                pending = (step, metrics)
                tracer.after(step, metrics)
                evaluates = _is_due(step, run.evaluate_every, run.steps)
                saves = _is_due(step, run.checkpoint_every, run.steps)
                if evaluates or saves:
                    if (back := log(*pending)) is not None:
                        state = rolled_back(step, back)
                    pending = None
                if evaluates:
                    evaluate(step)
                if saves:
                    save(step, wait=step == run.steps)
            stop.check()
        except Stopped:
            if pending is not None and (back := log(*pending)) is not None:
                state = rolled_back(step, back)
            write("stopped", step, totals.unlogged() | {"seconds": round(clock.training(), 3)})
            if step:
                save(step, wait=True)
            note("stopped", step)
            raise Stopped(f"Stopped at step {step}; the same command resumes.") from None
        finally:
            stream.close()
        if unfinished:
            note("end", step)
            write("goodput", step, goodput(directory))
    return state.params


def _is_due(step, every, last):
    return step > 0 and (step % every == 0 or step == last)
