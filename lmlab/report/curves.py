"""Learning curves as inline SVG: coloured by the page's style sheet, so light and dark like it."""

import dataclasses
import html
import itertools
import math

from lmlab.report.quantities import si
from lmlab.report.results import Points, curve

WIDTH, HEIGHT = 600, 400
LEFT, RIGHT, TOP, BOTTOM = 40, 180, 28, 46
COLOURS = 8  # --arm0 .. --arm7 in page.css; beyond, the dashes tell arms of one colour apart
DASHES = ("", "7 3", "2 3")
MARKERS = ("M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z", "M-3-3h6v6h-6z", "M0-4.2 4.2 0 0 4.2-4.2 0z",
           "M0-4 3.8 3h-7.6z", "M0 4 3.8-3h-7.6z",
           "M-1.2-4h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
           "M-4-1.6h8v3.2h-8z")
AXES = {"bytes": ("training bytes", "B"), "flops": ("training FLOPs", "")}


@dataclasses.dataclass(frozen=True)
class Style:
    """How one arm looks all over the page: a colour, a dash and a marker, so never by colour alone."""

    index: int

    @property
    def css(self):
        dash = DASHES[self.index // COLOURS % len(DASHES)]
        return f"--c:var(--arm{self.index % COLOURS})" + (f";stroke-dasharray:{dash}" if dash else "")

    @property
    def marker(self):
        return MARKERS[self.index % len(MARKERS)]

    def swatch(self):
        """A line with its marker, to stand before an arm's label."""
        return (f'<svg class="swatch" style="{self.css}" viewBox="-13 -6 26 12" aria-hidden="true">'
                f'<path class="line" d="M-12 0H12"/><path class="dot" d="{self.marker}"/></svg>')


def smooth(values, share=0.1):
    """Running mean over `share` of the past to either side: a window of constant width on a log axis."""
    sums = [0.0, *itertools.accumulate(values)]
    windows = ((i - int(share * i), min(i + int(share * i), len(values) - 1) + 1) for i in range(len(values)))
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in windows]


def thin(points, count=200):
    """At most about `count` points, evenly spread on a log axis, the last one among them."""
    n = len(points.x)
    keep = sorted({round(n ** (i / count)) - 1 for i in range(count + 1)}) if n > count else range(n)
    return Points(*([values[i] for i in keep] for values in (points.step, points.x, points.y)))


def mean(lines):
    """Mean of several seeds' points over the steps that all of them have."""
    tables = [dict(zip(line.step, zip(line.x, line.y))) for line in lines]
    steps = [step for step in lines[0].step if all(step in table for table in tables)]
    return Points(steps, *([math.fsum(table[step][axis] for table in tables) / len(tables) for step in steps]
                           for axis in (0, 1)))


def ticks(low, high, log):
    """Round numbers within [low, high]: 1, 2, 5 times powers of ten, thinned to at most seven."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits, every in (((1, 2, 5), 1), ((1,), 1), ((1,), 3)):
            values = [d * 10.0**k for k in decades if k % every == 0 for d in digits]
            found = [value for value in values if low <= value <= high]
            if len(found) <= 7:
                return found
        return found
    if low == high:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 7)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def chart(results, labels, x="bytes", y="bpb", unit="bits per byte"):
    """One SVG with every arm in `labels` ({arm: label}, whose order gives the colours); "" without any point.

    Thick: held-out text, with markers (mean over seeds). Pale: smoothed training. Thin: single seeds.
    """
    arms = {arm: _lines(results, arm, x, y) for arm in labels}
    arms = {arm: lines for arm, lines in arms.items() if any(max(line.x, default=0) > 0 for line, _ in lines)}
    if not arms:
        return ""
    lines = [line for lines in arms.values() for line, _ in lines if max(line.x, default=0) > 0]
    right = max(max(line.x) for line in lines)
    left = max(min(min(line.x) for line in lines), right / 40)
    log = right / left > 8
    late = [value for line in lines for at, value in zip(line.x, line.y) if at >= max(line.x) / 12]
    margin = 0.04 * (max(late) - min(late)) or 0.5
    low, high = min(late) - margin, max(late) + margin
    scale = math.log if log else float
    span = scale(right) - scale(left) or 1.0

    def place(at, value):
        return (LEFT + (WIDTH - LEFT - RIGHT) * (scale(max(at, left * 1e-3)) - scale(left)) / span,
                HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low))

    drawn, ends = [], []
    for index, arm in enumerate(labels):
        if arm in arms:
            style = Style(index)
            drawn.append(f'<g data-arm="{html.escape(arm)}" style="{style.css}">'
                         + "".join(_path(line, kind, place) for line, kind in arms[arm])
                         + _markers(arms[arm], style, labels[arm], place, AXES[x], unit) + "</g>")
            last = next(line for line, _ in reversed(arms[arm]) if line.x)
            ends.append((arm, style, labels[arm], last.y[-1], place(last.x[-1], last.y[-1])))
    title = f"{unit.capitalize()} against {AXES[x][0]}"
    return (f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
            f'<clipPath id="clip-{x}-{y}"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT + 5}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>'
            + _axes(ticks(left, right, log), ticks(low, high, False), place, left, low, AXES[x], unit)
            + f'<g clip-path="url(#clip-{x}-{y})">{"".join(drawn)}</g>{_labels(ends)}</svg>')


def _lines(results, arm, x, y):
    """[(points, kind)] of one arm, kind one of "train", "seed", "held-out"; the last gets the label."""
    curves = [curve(result, x, y) for result in results if result.arm == arm]
    trains = [Points(c.train.step, c.train.x, smooth(c.train.y)) for c in curves if c.train.x]
    evaluations = [c.evaluation for c in curves if c.evaluation.x]
    lines = [(thin(mean(trains)), "train")] if trains else []
    if len(evaluations) > 1:
        lines += [(line, "seed") for line in evaluations]
    if evaluations:
        lines.append((mean(evaluations), "held-out"))
    return lines


def _path(line, kind, place):
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in map(place, line.x, line.y))
    return f'<polyline class="{kind}" points="{points}"/>'


def _markers(lines, style, label, place, axis, unit):
    return "".join(
        f'<path class="dot" transform="translate({px:.1f} {py:.1f})" d="{style.marker}">'
        f"<title>{html.escape(label)}: {value:.3f} {unit} at {si(at, axis[1])} ({axis[0]})</title></path>"
        for line, kind in lines if kind == "held-out"
        for at, value, (px, py) in zip(line.x, line.y, map(place, line.x, line.y)))


def _axes(x_ticks, y_ticks, place, left, low, axis, title):
    name, unit = axis
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>'
             f'<text class="name" x="0" y="12">{title.capitalize()}</text>']
    for value in y_ticks:
        y_at = place(left, value)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y_at:.1f}H{right}"/>'
                     f'<text x="{LEFT - 8}" y="{y_at + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in x_ticks:
        x_at = place(value, low)[0]
        parts.append(f'<path class="axis" d="M{x_at:.1f} {bottom}v4"/>'
                     f'<text x="{x_at:.1f}" y="{bottom + 18}" text-anchor="middle">{si(value, unit)}</text>')
    return "".join(parts) + (f'<text class="name" x="{right}" y="{HEIGHT - 6}" text-anchor="end">'
                             f"{name[0].upper()}{name[1:]}</text>")


def _labels(ends, gap=15):
    """Direct labels at the right, pushed apart, each joined to the end of its line."""
    ends = sorted(ends, key=lambda end: end[4][1])
    at = []
    for end in ends:
        at.append(max(end[4][1], at[-1] + gap if at else TOP + 6))
    limit = HEIGHT - BOTTOM
    for i in reversed(range(len(at))):
        at[i] = min(at[i], limit)
        limit = at[i] - gap
    parts = []
    for (arm, style, label, value, (px, py)), y in zip(ends, at):
        x = WIDTH - RIGHT + 16
        short = label if len(label) <= 18 else label[:17] + "…"
        parts.append(f'<g data-arm="{html.escape(arm)}" style="--c:var(--arm{style.index % COLOURS})">'
                     f'<path class="leader" d="M{px + 5:.1f} {py:.1f}L{x - 3} {y:.1f}"/>'
                     f'<text class="label" x="{x}" y="{y + 4:.1f}"><tspan class="value">{value:.2f}</tspan> '
                     f"{html.escape(short)}<title>{html.escape(label)}</title></text></g>")
    return "".join(parts)
