"""Metrics to disk: JSON lines for programs, TensorBoard for eyes."""

import json
import os


class MetricsWriter:
    """Appends to `metrics.jsonl` and to a TensorBoard event file beside it.

    On resuming from `start_step`, lines of later steps (from a run that died after its last checkpoint) go first.
    """

    def __init__(self, directory, start_step):
        from tensorboardX import SummaryWriter

        path = os.path.join(directory, "metrics.jsonl")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                kept = [line for line in f if line.endswith("\n") and json.loads(line)["step"] <= start_step]
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
