"""From the metrics of single steps to logged lines."""

import math
import sys

from lmlab.training import processes
from lmlab.training.writer import last_line, read_lines


class Totals:
    """Sums of the step's metrics since the last logged line, and the bytes and FLOPs of the whole run.

    `positions`: tokens of a step; `flops_per_step(ratios)`: at these ratios of slots, stage by stage, or as planned;
    `peak_flops`: per second, of all devices, or None.
    """

    def __init__(self, directory, start, positions, flops_per_step, peak_flops=None):
        last = last_line(directory, start, "train")
        self.last = {name: last.get(name, 0) for name in ("bytes", "seconds", "flops", "useful_flops", "computed_flops")}
        self._logged = []  # (step, bytes) of the lines so far whose steps are not undone
        for line in read_lines(directory) if start else []:
            if line["kind"] == "train" and line["step"] <= start:
                self._logged.append((line["step"], line["bytes"]))
            elif line.get("action") == "rollback" and line["step"] <= start:
                self._undo(line["to"])
        self._positions, self._flops_per_step, self._peak = positions, flops_per_step, peak_flops
        self._sums, self._steps, self._refused = {}, 0, 0
        stopped = last_line(directory, start, "stopped")
        refused = last_line(directory, start, "spike")  # a line is not logged where all its steps were refused
        known = (0, last.get("step"), stopped.get("step"), refused.get("step"))
        if start not in known and processes.is_first():
            print(f"lmlab: the metrics of {directory} end before step {start}; its totals begin anew.", file=sys.stderr)
        if stopped.get("step") == start:
            self._sums, self._steps, self._refused = stopped["sums"], stopped["steps"], stopped.get("refused", 0)
        elif refused.get("step", 0) > last.get("step", 0):
            self._refused = start - last.get("step", 0)

    def unlogged(self):
        """What a resumed run needs to log the line that it was stopped in."""
        return {"sums": self._sums, "steps": self._steps, "refused": self._refused}

    def add(self, metrics):
        """One step's metrics, as NumPy scalars."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._steps += 1

    def add_refused(self):
        """A step whose update was refused: its FLOPs were spent, but nothing was learned from its bytes."""
        self._refused += 1

    def roll_back(self, to):
        """The steps after `to`, at which a line could be logged, are undone: they count as refused ones."""
        self._refused += self._steps
        self._sums, self._steps = {}, 0
        self._undo(to)

    def _undo(self, to):
        self._logged = [(step, size) for step, size in self._logged if step <= to]
        self.last["bytes"] = self._logged[-1][1] if self._logged else 0

    def values(self, step, seconds):
        """The logged line of the steps since the last one; None if all of them were refused or undone.

        A sum whose counterpart is called <name>_of is logged as their ratio.
        `flops`: at the planned number of chunks; `useful_flops`: at the number that there were; `computed_flops`: of all
        slots, filled or not, without what is computed again backward. `utilisation`: planned FLOPs over what the devices
        could do in bf16 at their peak.
        """
        s, n = self._sums, self._steps
        if not n:
            return None
        values = {
            "bytes": self.last["bytes"] + int(s["target_bytes"]),
            "flops": self._flops_per_step() * step,
            "seconds": round(seconds, 3),
            "loss": s["loss"] / n,
            "bpb": s["nats"] / (math.log(2) * max(1.0, s["target_bytes"])),
            "grad_norm": s["grad_norm"] / n,
        }
        parts = [name.removeprefix("grad_square/") for name in s if name.startswith("grad_square/")]
        values |= {f"grad_norm/{part}": math.sqrt(s[f"grad_square/{part}"] / n) for part in parts}
        values |= {name: s[name] / max(1.0, s[f"{name}_of"]) for name in s if f"{name}_of" in s}
        stage, ratios, before = 0, [], n * self._positions
        filled, chunks = [], before
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
            kept = max(1.0, s[p + "starts"] - s[p + "overflow"])
            filled.append(chunks / kept)
            chunks = kept
            stage += 1
        steps = n + self._refused
        values["useful_flops"] = self.last["useful_flops"] + steps * self._flops_per_step(tuple(filled))
        values["computed_flops"] = self.last["computed_flops"] + steps * self._flops_per_step(tuple(ratios))
        if self._refused:
            values["refused"] = self._refused
        values |= self._rates(values, seconds)
        self.last = {name: values[name] for name in self.last}
        self._logged.append((step, values["bytes"]))
        self._sums, self._steps, self._refused = {}, 0, 0
        return values

    def _rates(self, values, seconds):
        """Per second of steps since the last line."""
        elapsed = max(1e-9, seconds - self.last["seconds"])
        rates = {f"{name}_per_second": (values[name] - self.last[name]) / elapsed for name in
                 ("bytes", "flops", "computed_flops")}
        rates["steps_per_second"] = (self._steps + self._refused) / elapsed
        if self._peak:
            rates["utilisation"] = rates["flops_per_second"] / self._peak
        return rates
