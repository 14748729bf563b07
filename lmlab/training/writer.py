"""Metrics to disk: JSON lines for programs, TensorBoard for eyes."""

import json
import os

METRICS = "metrics.jsonl"


def whole_lines(path):
    """(text, value) of each line of JSON in a file, in order. A kill may tear the last, and a machine that fails may
    leave zeros: what is no object with a kind and a step is left out."""
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8", errors="replace") as f:
        for text in f:
            try:
                value = json.loads(text)
            except ValueError:
                continue
            if text.endswith("\n") and isinstance(value, dict) and value.keys() >= {"kind", "step"}:
                yield text, value


def read_lines(directory):
    """The whole lines of metrics.jsonl, in order."""
    return [value for _, value in whole_lines(os.path.join(directory, METRICS))]


def last_line(directory, start, *kinds):
    """The last metrics line of these kinds at or before step `start`, or nothing."""
    lines = read_lines(directory) if start else []
    return next((line for line in reversed(lines) if line["kind"] in kinds and line["step"] <= start), {})


class MetricsWriter:
    """Appends to `metrics.jsonl` and to a TensorBoard event file beside it.

    On resuming from `start_step`, lines of later steps (from a run that died after its last checkpoint) go first.
    """

    def __init__(self, directory, start_step):
        from tensorboardX import SummaryWriter

        path = os.path.join(directory, METRICS)
        if os.path.exists(path):
            kept = [text for text, line in whole_lines(path) if line["step"] <= start_step]
            with open(path + ".new", "w", encoding="utf-8") as f:
                f.writelines(kept)
            os.replace(path + ".new", path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(os.path.join(directory, "tensorboard"), purge_step=start_step + 1)

    def write(self, kind, step, values):
        """One line; numbers also go to TensorBoard as `kind/name`."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self):
        """Onto the disk: before a checkpoint, which must not outlive the lines that lead to it."""
        os.fsync(self._file.fileno())

    def close(self):
        """Flush and close both."""
        try:
            self._file.close()
        finally:
            try:
                self._board.close()
            except OSError:
                # Else its thread, and what it does at exit, each fail once more and print a stack.
                events = self._board.file_writer.event_writer
                events._worker.stop()
                events._closed = True
                raise
