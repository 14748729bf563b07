"""A trace of some steps, for TensorBoard's profiler or Perfetto."""

import os
import sys

import jax

from lmlab.errors import UserError


def parse_steps(text):
    """"100:105" as (100, 105): steps 100 to 104, counted from 1. UserError for anything else."""
    first, colon, end = text.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and 1 <= int(first) < int(end)):
        raise UserError(f"--profile takes steps as FIRST:END with 1 <= FIRST < END, such as 100:105, not {text!r}.")
    return int(first), int(end)


def check_steps(steps, run):
    """UserError if the run ends before these steps do."""
    if steps and steps[1] > run.steps + 1:
        raise UserError(f"--profile {steps[0]}:{steps[1]} is past the end: the run has {run.steps} steps.")


def say(sentence):
    """On stderr, of the first process."""
    if jax.process_index() == 0:
        print(f"lmlab: {sentence}", file=sys.stderr, flush=True)


class Profile:
    """Traces `steps` (first, end) of a run that goes on after step `done`, into `<directory>/profile`; None: none."""

    def __init__(self, steps, directory, done):
        self._folder, self._tracing = os.path.join(directory, "profile"), False
        self._steps = range(0)
        if steps:
            self._steps = range(max(steps[0], done + 1), steps[1])
            if not self._steps:
                say(f"Nothing is traced: step {steps[1] - 1} was done before, and the run goes on after step {done}.")

    def before(self, step):
        """To be called before `step`; returns a context for it, by which the trace names it."""
        if step in self._steps and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def after(self, step, metrics):
        """To be called after `step`, with what it returned."""
        if self._tracing and step >= self._steps[-1]:
            jax.block_until_ready(metrics)
            self.close()
            say(f"The trace of steps {self._steps[0]} to {step} is in {self._folder}.")

    def close(self):
        """End a trace that is under way."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
