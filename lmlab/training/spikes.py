"""Batches that would spoil a training: what is refused, what then happens, and what is remembered of them.

The decision is made inside the step, which leaves the state as it was: a refused update is never applied, whatever the
policy, and so never saved. The host hears of it one step later.
"""

import dataclasses
import math

import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.training import processes
from lmlab.training.writer import read_lines

POLICIES = ("halt", "skip", "rollback")


@dataclasses.dataclass(frozen=True)
class Spikes:
    """What a step refuses, and what happens then.

    "halt" ends the run with one sentence. "skip" goes on without the batch. "rollback" goes on after it from the state
    of the last periodic checkpoint, without all batches since then: to train on those before the spike again would end
    where it began, because training is deterministic. The schedule counts updates, so what is left out delays it.

    By default only what is not finite is refused, and halts: it is always wrong, while a finite spike mostly heals, and
    how high one is depends on the run.
    """

    policy: str = "halt"
    sigmas: float = 0.0  # refuse a loss or gradient norm this many standard deviations above the recent mean; 0: never
    window: int = 128  # accepted steps that are recent; the first so many are judged by finiteness only
    patience: int = 5  # batches skipped in a row, or rollbacks in all; the next one halts

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise UserError(f"The policy for loss spikes is {', '.join(POLICIES[:2])} or rollback, not {self.policy!r}.")
        if not self.sigmas >= 0 or self.window < 2 or self.patience < 1:
            raise UserError("Spikes need sigmas of at least 0, a window of at least 2 and patience of at least 1.")

    def nothing_yet(self):
        """What the step remembers at first: [loss and gradient norm, window] float32, NaN where no step was yet."""
        return jnp.full((2, self.window), jnp.nan) if self.sigmas else ()

    def judge(self, recent, loss, grad_norm):
        """Returns (whether the update of these is applied, what to remember)."""
        now = jnp.stack([loss, grad_norm]).astype(jnp.float32)
        accepted = jnp.all(jnp.isfinite(now))
        if not self.sigmas:
            return accepted, recent
        # While the window is not full its mean is NaN, and nothing is above NaN.
        above = jnp.any(now > jnp.mean(recent, 1) + self.sigmas * jnp.std(recent, 1))
        accepted &= ~above
        return accepted, jnp.where(accepted, jnp.concatenate([recent[:, 1:], now[:, None]], 1), recent)


class Refused:
    """The batches that were refused up to step `start`, as the lines of kind "spike" in metrics.jsonl have them.

    Like every line, those after the checkpoint that is resumed from are dropped; the same steps are refused again.
    """

    def __init__(self, run, directory, start):
        self._run, self._directory = run, directory
        self._lines = [line for line in read_lines(directory) if line["kind"] == "spike" and line["step"] <= start]

    def left_out(self, step):
        """Steps up to `step` that are in no way part of its state."""
        return next((line["left_out"] for line in reversed(self._lines) if line["step"] <= step), 0)

    def add(self, step, loss, grad_norm, rows):
        """The line of a refused batch: {"step", "rows" of the train split, "loss", "grad_norm", "action", "left_out",
        and of a rollback "to", the step of the checkpoint}."""
        spikes, every = self._run.spikes, self._run.checkpoint_every
        action, left_out, more = spikes.policy, self.left_out(step) + 1, {}
        if action == "skip":
            in_a_row = 0
            while in_a_row < len(self._lines) and self._lines[-1 - in_a_row]["step"] == step - 1 - in_a_row:
                in_a_row += 1
            action = "halt" if in_a_row >= spikes.patience else action
        elif action == "rollback":
            to = (step - 1) // every * every
            left_out, more = self.left_out(to) + step - to, {"to": to}
            action = "halt" if sum(line["action"] == action for line in self._lines) >= spikes.patience else action
        # The same in all processes, whose views of the file may differ for some seconds.
        action = POLICIES[processes.from_first(POLICIES.index(action))[0]]
        # JSON has no NaN.
        loss, grad_norm = (float(v) if math.isfinite(v) else str(float(v)) for v in (loss, grad_norm))
        numbers = {"loss": loss, "grad_norm": grad_norm}
        line = {"step": step, "rows": rows, **numbers, "action": action, "left_out": left_out, **more}
        self._lines.append(line)
        return line

    def sentence(self, line):
        """What happened, and how to look at it."""
        step, rows = line["step"], line["rows"]
        values = " and ".join(
            f"{name.replace('grad_', 'gradient ')} {v if isinstance(v, str) else f'{v:.4g}'}"
            for name, v in line.items()
            if name in ("loss", "grad_norm")
        )
        shown = ", ".join(map(str, rows[:4])) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
        what = f"Step {step} was refused, for {values} on rows {shown} of the train split"
        look = f"`lmlab inspect {self._directory} --step {step}` shows them"
        if line["action"] == "skip":
            return f"{what}: training goes on without it; {look}."
        if line["action"] == "rollback":
            return f"{what}: training goes on from the state of step {line['to']}, without the batches since; {look}."
        if self._run.spikes.policy != "halt":
            return (
                f"{what}, after {self._run.spikes.patience} others (spikes.patience); the checkpoints before it are kept, "
                f"and {look}."
            )
        return (
            f"{what}; the checkpoints before it are kept, {look}, and `--set spikes.policy=skip --dir "
            f"{self._directory}` goes on without them."
        )
