"""Where the wall time of a process goes."""

import contextlib
import time

STEPS = ("data", "device", "host")  # what steps are made of
PHASES = ("start", *STEPS, "compile", "evaluation", "checkpoint")


class Clock:
    """Every moment since it was made belongs to exactly one phase, so that phases add up to the wall time.

    start: before the first step: corpus, parameters, the checkpoint to resume from.
    data: waiting for a batch, and handing it to the devices.
    device: waiting for the devices: in the call of the step, and for the numbers of the step before. The loop looks at
        them one step late, so that the host works while the devices do: what is left here is the time that the host
        had nothing to do, and where it is nearly all, the devices are the bottleneck.
    host: everything else between steps, such as the logging.
    compile: tracing and compiling the step.
    evaluation, checkpoint: what training waits for them; checkpoints are written in the background.
    """

    def __init__(self):
        self.before = 0.0  # seconds of steps in earlier processes
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase, self._since, self._laps = PHASES[0], time.monotonic(), {}

    def enter(self, phase):
        """What follows is `phase`."""
        now = time.monotonic()
        self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    @contextlib.contextmanager
    def __call__(self, phase):
        """Context that is `phase`."""
        around = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(around)

    def training(self):
        """Seconds of steps over the life of the run."""
        self.enter(self._phase)
        return self.before + sum(self._seconds[phase] for phase in STEPS)

    def lap(self, reader):
        """{phase: seconds} since the last call with this name."""
        self.enter(self._phase)
        before, self._laps[reader] = self._laps.get(reader, {}), dict(self._seconds)
        return {phase: seconds - before.get(phase, 0.0) for phase, seconds in self._seconds.items()}
