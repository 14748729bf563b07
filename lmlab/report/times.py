"""Where the wall time of finished runs went, restarts included."""

import html
import statistics

from lmlab.report.quantities import duration

PARTS = {  # of a line of kind "goodput" in metrics.jsonl: its heading
    "kept": "Steps",
    "again": "Undone steps",
    "start": "Start",
    "compile": "Compile",
    "evaluation": "Evaluation",
    "checkpoint": "Checkpoints",
    "down": "Down",
}


def describe(times):
    """One line of text: "goodput 71%: of 12.3 s since the first start 8.7 s went into steps that were kept (...)"."""
    rest = [f"{name.lower()} {duration(times[f'seconds/{part}'])}" for part, name in PARTS.items() if part != "kept"]
    return (
        f"goodput {times['goodput']:.0%}: of {duration(times['seconds'])} since the first start "
        f"{duration(times['seconds/kept'])} went into steps that were kept ({', '.join(rest)})"
    )


def table_html(results, labels, name):
    """An HTML table with a row per arm, the mean over its seeds; empty where no run has such a line. `name(arm)` is
    HTML."""
    times = {}
    for result in results:
        line = next((row for row in reversed(result.log) if row.get("kind") == "goodput"), None)
        if line is not None:
            times.setdefault(result.arm, []).append(line)
    if not times:
        return ""

    def mean(arm, key):
        return statistics.fmean(line.get(key, 0.0) for line in times[arm])

    headings = ("Wall time", "Goodput", *PARTS.values())
    head = "".join(f'<th scope="col" class="number">{heading}</th>' for heading in headings)
    rows = []
    for arm in (arm for arm in labels if arm in times):
        cells = [duration(mean(arm, "seconds")), f"{mean(arm, 'goodput'):.0%}"]
        cells += [duration(mean(arm, f"seconds/{part}")) for part in PARTS]
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f'<tr data-arm="{html.escape(arm)}"><th scope="row">{name(arm)}</th>{numbers}</tr>')
    return (
        '<div class="scroll" tabindex="0"><table><caption>Wall time since the first start; goodput is the share of '
        f'steps that were kept</caption><thead><tr><th scope="col">Arm</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
