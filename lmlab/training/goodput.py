"""What share of a run's wall time went into steps that were kept, restarts included.

metrics.jsonl forgets the steps that a kill undid, so that a resumed run's metrics equal those of one that was never
stopped. Their time is kept here: `times.jsonl` is only ever added to, a line at each start, compilation, logged line,
evaluation, checkpoint, rollback and end, with the seconds of each phase since the line before. So it needs no clean end.
"""

import json
import os
import time

from lmlab.training.clock import PHASES, STEPS
from lmlab.training.writer import whole_lines

FILE = "times.jsonl"


class Times:
    """Adds the laps of `clock` to the file in `directory`."""

    def __init__(self, directory, clock):
        path = os.path.join(directory, FILE)
        torn = os.path.exists(path) and not open(path, "rb").read().endswith(b"\n")  # noqa: SIM115
        self._file, self._clock = open(path, "a", encoding="utf-8"), clock  # noqa: SIM115
        self._file.write("\n" if torn and self._file.tell() else "")

    def add(self, kind, step, **more):
        """One line. `kind`: "start" at the first of a process, "rollback" where the steps after `to` are undone."""
        seconds = {phase: round(s, 4) for phase, s in self._clock.lap("times").items()}
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), "seconds": seconds, **more}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self):
        """Close the file."""
        self._file.close()


def goodput(directory):
    """{"goodput": share, "seconds" since the first start, and what they went into: "seconds/<part>"}, or {} of a run
    that was never timed.

    Parts: kept (data, device and host of the steps that are in the last state, skipped batches included), again (of
    those undone by a kill or a rollback), down (from a process' last line to the next one's start, with what was done
    after that line), and the other phases of all processes. Times are the machine's, which must not be set back.
    """
    lines = _lines(directory)
    if not lines:
        return {}
    seconds = dict.fromkeys(("kept", "again", *(p for p in PHASES if p not in STEPS), "down"), 0.0)
    done, last = [], _began(lines[0])  # done: (step, seconds) of what is not undone so far

    def undo(after):
        nonlocal done
        seconds["again"] += sum(s for step, s in done if step > after)
        done = [(step, s) for step, s in done if step <= after]

    for line in lines:
        if line["kind"] == "start":
            seconds["down"] += _began(line) - last
            undo(line["step"])
        done.append((line["step"], sum(line["seconds"][phase] for phase in STEPS)))
        if line["kind"] == "rollback":
            undo(line["to"])
        for phase in set(PHASES) - set(STEPS):
            seconds[phase] += line["seconds"][phase]
        last = line["time"]
    seconds["kept"] = sum(s for _, s in done)
    wall = last - _began(lines[0])
    parts = {f"seconds/{part}": round(s, 3) for part, s in seconds.items()}
    return {"goodput": round(seconds["kept"] / max(wall, 1e-9), 4), "seconds": round(wall, 3), **parts}


def planned_bytes(directory):
    """Memory of a device that a step was planned with when it was last compiled, or None."""
    lines = [line for line in _lines(directory) if line["kind"] == "compiled"]
    return lines[-1]["peak_bytes"] if lines else None


def _began(line):
    return line["time"] - sum(line["seconds"].values())


def _lines(directory):
    return [line for _, line in whole_lines(os.path.join(directory, FILE))]
