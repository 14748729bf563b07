"""The page of a table: one HTML file that needs nothing else, in light and dark, on a desk and on a phone."""

import html
import os
import pathlib
import statistics

from lmlab.report import passages as text
from lmlab.report.curves import Style, chart
from lmlab.report.quantities import duration, fixed, si
from lmlab.report.tables import render_html
from lmlab.report.times import table_html

# The browser itself is told to fetch nothing, whatever text a model wrote.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
HOW = {  # to read each section
    "table": "One row per arm: what the paper reported beside what was measured here (↓ lower is better, "
             "↑ higher is better). Blank means unknown; bold is the best mean of a measured column.",
    "curves": "Bits per byte while training, lower is better. Lines with markers: held-out text, the mean "
              "over seeds; thin lines: single seeds; pale lines: training text, smoothed over a tenth of the "
              "training so far. The start of training may lie above the frame.",
    "chunks": "Held-out text cut where each model cuts it. Every change of shade starts a chunk of the first "
              "stage; every change of underline, solid or dotted, one of the second. A dashed box is a "
              "character that a chunk boundary splits; small boxes are bytes without a printed form.",
    "surprisal": "The same text, shaded by the bits that each byte cost. Point at a character to see its "
                 "bytes under every model. A token's bits are spread evenly over its bytes.",
    "samples": "Text that each model wrote, as it came, from the first seed.",
    "provenance": "Where these numbers come from and what each arm cost; with several seeds, "
                  "the mean of a run.",
}


def write_page(path, title, claim, views, results, provenance, arm_labels):
    """Write the report of `results` to `path`, atomically.

    `views`: the tables, in order. `provenance`: {name: value}, a value also a list or again a mapping.
    `arm_labels`: {arm: label}; its order gives the arms their order and colours everywhere.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(render_page(title, claim, views, results, provenance, arm_labels),
                     encoding="utf-8", errors="replace")
    os.replace(draft, path)


def render_page(title, claim, views, results, provenance, arm_labels):
    """The page as a string. A section without anything to show is left out, also from the contents."""
    labels = dict(arm_labels) | {result.arm: result.arm for result in results if result.arm not in arm_labels}
    arms = _Arms(labels)
    firsts = {result.arm: result for result in reversed(sorted(results, key=lambda result: result.seed))}
    firsts = {arm: firsts[arm] for arm in labels if arm in firsts}
    sections = [
        ("table", "Results", "".join(render_html(view, arms.swatch) for view in views)),
        ("curves", "Learning curves", _curves(results, labels, arms)),
        ("chunks", "Chunks", _chunks(firsts, arms)),
        ("surprisal", "Surprisal", _surprisal(firsts, arms)),
        ("samples", "Samples",
         grid(arms.panel(arm, "", f'<div class="text">{text.text_html(result.sample)}</div>')
               for arm, result in firsts.items() if result.sample)),
        ("provenance", "Provenance", _provenance(results, labels, arms, provenance)),
    ]
    sections = [section for section in sections if section[2]]
    contents = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{heading}</h2><p class="how">{HOW[key]}</p>{content}</section>'
                   for key, heading, content in sections)
    facts = " · ".join(html.escape(_plain(provenance[name])) for name in ("scale", "commit", "date")
                       if provenance.get(name))
    pending = "" if results else '<p class="how">No run of this table has finished yet.</p>'
    title, style, script = html.escape(title), asset("page.css"), asset("page.js")
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="color-scheme" content="light dark"><style>{style}</style></head><body><header>'
            f'<h1>{title}</h1><p class="claim"><small>The paper’s claim</small>{html.escape(claim)}</p>'
            f'<p class="facts">{facts}</p>{pending}</header>'
            f'<nav aria-label="Contents"><ol>{contents}</ol></nav>'
            f"<main>{body}</main><script>{script}</script></body></html>\n")


def asset(name):
    """Style sheet or script of the page."""
    return pathlib.Path(__file__).with_name(name).read_text(encoding="utf-8")


class _Arms:
    """Labels and looks of the arms."""

    def __init__(self, labels):
        self.labels = labels
        self.styles = {arm: Style(index) for index, arm in enumerate(labels)}

    def swatch(self, arm):
        return self.styles[arm].swatch() if arm in self.styles else ""

    def name(self, arm):
        return self.swatch(arm) + html.escape(self.labels[arm])

    def panel(self, arm, detail, content):
        detail = f"<small>{detail}</small>" if detail else ""
        return (f'<figure class="panel" data-arm="{html.escape(arm)}"><figcaption>{self.name(arm)}{detail}'
                f"</figcaption>{content}</figure>")


def grid(panels, columns=None):
    """Panels side by side, in a narrow window fewer; `columns`: None for what suits their number."""
    panels = list(panels)
    columns = columns or (2 if len(panels) < 3 else 3 if len(panels) in (3, 5, 6) else 4)
    return f'<div class="panels" style="--n:{columns}">{"".join(panels)}</div>' if panels else ""


def _curves(results, labels, arms):
    charts = [svg for x in ("bytes", "flops") if (svg := chart(results, labels, x))]
    trained = [arm for arm in labels if any(result.arm == arm for result in results)]
    legend = "".join(f'<li data-arm="{html.escape(arm)}">{arms.name(arm)}</li>' for arm in trained)
    figures = "".join(f'<div class="scroll" tabindex="0">{svg}</div>' for svg in charts)
    return f'<ul class="legend">{legend}</ul><div class="charts">{figures}</div>' if charts else ""


def _by_passage(firsts):
    """[[(arm, passage)]]: what all arms make of the same bytes, in order of appearance."""
    groups = {}
    for arm, result in firsts.items():
        for passage in result.passages:
            groups.setdefault(bytes(passage["bytes"]), []).append((arm, passage))
    return list(groups.values())


def _passages(groups, arms, describe, show):
    return "".join(
        f'<div class="passage"><h3>Passage {i} <small>{len(group[0][1]["bytes"])} bytes</small></h3>'
        + grid(arms.panel(arm, describe(passage), show(passage)) for arm, passage in group) + "</div>"
        for i, group in enumerate(groups, 1) if group)


def _chunks(firsts, arms):
    groups = [[(arm, passage) for arm, passage in group if passage["stages"]]
              for group in _by_passage(firsts)]
    return _passages(groups, arms, text.describe_chunks, text.chunks_html)


def _surprisal(firsts, arms):
    shown = _passages(_by_passage(firsts), arms, text.describe_surprisal, text.surprisal_html)
    return text.scale_html() + shown if shown else ""


def _plain(value):
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, (list, tuple)) else str(value)


def _provenance(results, labels, arms, provenance):
    facts = "".join(f"<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(_plain(value))}</dd></div>"
                    for name, value in provenance.items() if value is not None)
    columns = [("Seeds", None, None), ("Parameters", "parameters", si),
               ("FLOPs per byte", "flops_per_byte", si),
               ("Training bytes", "train_bytes", lambda v: si(v, "B")),
               ("Training FLOPs", "train_flops", si), ("Wall time", "seconds", duration),
               ("Bytes per second", "bytes_per_second", si),
               ("Bytes per chunk", "bytes_per_chunk", lambda v: fixed(v, 2))]
    rows = []
    for arm in labels:
        runs = [result for result in results if result.arm == arm]
        if runs:
            cells = [", ".join(str(run.seed) for run in runs)]
            for _, key, write in columns[1:]:
                values = [value for run in runs if (value := run.metric(key)) is not None]
                cells.append(write(statistics.fmean(values)) if values else "")
            rows.append(f'<tr data-arm="{html.escape(arm)}"><th scope="row">{arms.name(arm)}</th>'
                        + "".join(f'<td class="number">{html.escape(cell)}</td>' for cell in cells) + "</tr>")
    headings = "".join(f'<th scope="col" class="number">{heading}</th>' for heading, _, _ in columns)
    table = (f'<div class="scroll" tabindex="0"><table><caption>Cost per run</caption><thead><tr>'
             f'<th scope="col">Arm</th>{headings}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>')
    return f'<dl class="facts">{facts}</dl>' + (table + table_html(results, labels, arms.name) if rows else "")
