"""What `lmlab train` and `lmlab inspect` show in a terminal."""

import contextlib
import sys
import time

from rich import progress
from rich.cells import cell_len
from rich.text import Text

from lmlab.report.passages import (
    LEVELS, characters, chunks, describe_chunks, describe_surprisal, glyph, level,
)
from lmlab.report.quantities import duration, si

SHADES = ("on grey23", "on dark_blue")
HEAT = ("", "on #2b241c", "on #3a2c1c", "on #4a331d", "on #5c3a1e", "on #6f401f", "on #834521", "on #974a26",
        "on #ab4e2e")
BARS = " ▁▂▃▄▅▆▇█"  # one per level, where there is no colour


def _shown(text, data):
    shown, kind = glyph(text, data)
    return {"newline": "↵", "tab": "→   ", "badge": f"‹{shown}›"}.get(kind, shown)


def print_chunks(console, passage):
    """The passage with alternating shades (first stage) and underlines (second); bars without colour."""
    data, line = bytes(passage["bytes"]), Text()
    plain = console.color_system is None
    before = None
    for run, parities, split in chunks(passage):
        style = "" if plain or not parities else f"white {SHADES[parities[0]]}"
        style += " underline" if len(parities) > 1 and parities[1] and not plain else ""
        if plain and before is not None:
            line.append("‖" if parities[1:] != before[1:] else "|")
        for start, stop, text in run:
            cut = " italic" if split and stop == run[-1][1] else ""
            line.append(_shown(text, data[start:stop]), style + cut)
            line.append("\n" if text == "\n" else "")
        before = parities
    console.print(line)
    console.print(Text(describe_chunks(passage) or "This model has no chunks.", style="dim"))


def print_document(console, heading, data):
    """A document, or a part of one, as it is, under a heading."""
    shown = (_shown(text, data[start:stop]) + "\n" * (text == "\n") for start, stop, text in characters(data))
    console.print(Text(heading, style="dim"))
    console.print(Text("".join(shown)), soft_wrap=True)


def print_surprisal(console, passage):
    """The passage shaded by bits (a character by its costliest byte); bars below it without colour."""
    data, lines, bars = bytes(passage["bytes"]), [Text()], [""]
    for start, stop, text in characters(data):
        shown, shade = _shown(text, data[start:stop]), max(map(level, passage["surprisal"][start:stop]))
        if cell_len(lines[-1].plain + shown) > console.width:
            lines.append(Text())
            bars.append("")
        lines[-1].append(shown, f"white {HEAT[shade]}" if HEAT[shade] else "")
        bars[-1] += BARS[shade] * cell_len(shown)
        if text == "\n":
            lines.append(Text())
            bars.append("")
    key = Text("bits: ", style="dim")
    for shade, edge in enumerate((0, *LEVELS)):
        mark = f"{BARS[shade]} " if console.color_system is None else ""
        key.append(f" {mark}{edge:g} ", f"white {HEAT[shade]}" if HEAT[shade] else "")
    for line, bar in zip(lines, bars):
        console.print(line)
        if console.color_system is None:
            console.print(Text(bar))
    console.print(key)
    console.print(Text(describe_surprisal(passage), style="dim"))


@contextlib.contextmanager
def training_progress(total_steps, start_step=0):
    """Yields a bar (lines, off a terminal) with `.update(step, *, loss, bpb, bytes_per_second)`."""
    if not sys.stdout.isatty():
        yield _Lines(total_steps, start_step)
        return
    columns = (progress.TextColumn("step {task.completed}/{task.total}"), progress.BarColumn(bar_width=24),
               progress.TextColumn("{task.fields[numbers]}"), progress.TimeRemainingColumn(compact=True),
               progress.TextColumn("left", style="dim"))
    with progress.Progress(*columns) as bar:
        yield _Bar(bar, total_steps, start_step)


def _numbers(loss, bpb, bytes_per_second):
    return f"loss {loss:.3f}  {bpb:.3f} bits per byte  {si(bytes_per_second, 'B/s')}"


class _Bar:
    def __init__(self, bar, total_steps, start_step):
        self.bar = bar
        self.task = bar.add_task("", total=total_steps, completed=start_step, numbers="compiling")

    def update(self, step, *, loss, bpb, bytes_per_second):
        self.bar.update(self.task, completed=step, numbers=_numbers(loss, bpb, bytes_per_second))


class _Lines:
    """One line per tenth of the steps; time left by the pace since the first update: no compilation."""

    def __init__(self, total_steps, start_step):
        self.total, self.printed, self.first = total_steps, 10 * start_step // max(total_steps, 1), None

    def update(self, step, *, loss, bpb, bytes_per_second):
        now = time.monotonic()
        self.first = self.first or (step, now)
        tenth = 10 * step // self.total
        if tenth > self.printed:
            self.printed = tenth
            done = step - self.first[0]
            left = duration((now - self.first[1]) / done * (self.total - step)) + " left" if done else ""
            numbers = _numbers(loss, bpb, bytes_per_second)
            print(f"step {step}/{self.total}  {numbers}  {left}".rstrip(), flush=True)
