"""A paper's table, what it reported beside what was measured: for terminal, Markdown and page."""

import dataclasses
import html
from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from lmlab.report.quantities import fixed
from lmlab.report.results import Summary

ARROWS = {"lower": "↓", "higher": "↑", None: ""}


@dataclasses.dataclass(frozen=True)
class Column:
    """One number per arm. `better` is "lower", "higher" or None; `digits` are decimals shown."""

    key: str
    label: str
    unit: str = ""
    better: str | None = None
    digits: int = 2

    @property
    def heading(self):
        """Label, unit and direction on one line: "Validation (bits per byte ↓)"."""
        detail = " ".join(part for part in (self.unit, ARROWS[self.better]) if part)
        return f"{self.label} ({detail})" if detail else self.label


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm: numbers from the paper and numbers from here, by column key; what is unknown is absent."""

    arm: str
    label: str
    reported: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measured: Mapping[str, Summary] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TableView:
    """Arms by columns; the paper's columns and ours may differ. `source`: where the reported values stand."""

    title: str
    reported_columns: list[Column]
    measured_columns: list[Column]
    rows: list[Row]
    source: str = ""
    note: str = ""

    def best(self, column):
        """The best measured mean of a column as printed; None without direction or rivals."""
        shown = [round(row.measured[column.key].mean, column.digits) for row in self.rows
                 if column.key in row.measured]
        shown = [value for value in shown if value == value]  # a diverged arm (NaN) is never the best
        if column.better is None or len(shown) < 2:
            return None
        return min(shown) if column.better == "lower" else max(shown)

    @property
    def footnotes(self):
        """Sentences below the table, in order: source, note, how several seeds are shown."""
        counts = {summary.n for row in self.rows for summary in row.measured.values()}
        unsaid = "all agree, or there is one alone" if 1 in counts else "all agree"
        seeds = f"± is the sample standard deviation over seeds; where none is shown, {unsaid}."
        return [sentence for sentence in (
            f"Reported values: {self.source.rstrip('.')}." if self.source and self.reported_columns else "",
            self.note,
            seeds if max(counts, default=1) > 1 else "",
        ) if sentence]


def _is_best(view, column, summary):
    return summary is not None and round(summary.mean, column.digits) == view.best(column)


def _spread(summary, column):
    return "" if summary is None or not summary.spread else f"±{fixed(summary.spread, column.digits)}"


def _plain(summary, column):
    if summary is None:
        return ""
    return f"{fixed(summary.mean, column.digits)} {_spread(summary, column)}".rstrip()


def render_terminal(view):
    """A `rich` table: reported columns are dim and headed "paper", measured ones "here"."""
    table = Table(title=Text(view.title), title_justify="left", title_style="bold",
                  caption=Text("\n".join(view.footnotes)), caption_justify="left", caption_style="dim",
                  header_style="", box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column("", max_width=28)
    for origin, style, columns in (("paper", "dim", view.reported_columns),
                                   ("here", "", view.measured_columns)):
        for column in columns:
            heading = f"{column.label}\n{column.unit} {ARROWS[column.better]}\n{origin}"
            table.add_column(Text(heading, style=style), justify="right", style=style,
                             min_width=max(map(len, heading.split())))
    for row in view.rows:
        reported = [Text(fixed(row.reported.get(column.key), column.digits))
                    for column in view.reported_columns]
        measured = [Text(_plain(row.measured.get(column.key), column),
                         style="bold" if _is_best(view, column, row.measured.get(column.key)) else "")
                    for column in view.measured_columns]
        table.add_row(Text(row.label), *reported, *measured)
    return table


def render_markdown(view):
    """A Markdown table with its title above and its footnotes below."""
    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    headings = ([f"{column.heading}, paper" for column in view.reported_columns]
                + [f"{column.heading}, here" for column in view.measured_columns])
    lines = [line(["", *headings]), line([":--", *["--:"] * len(headings)])]
    for row in view.rows:
        cells = [fixed(row.reported.get(column.key), column.digits) for column in view.reported_columns]
        for column in view.measured_columns:
            summary = row.measured.get(column.key)
            text = _plain(summary, column)
            cells.append(f"**{text}**" if _is_best(view, column, summary) else text)
        lines.append(line([row.label, *cells]))
    return "\n\n".join([f"**{view.title}**", "\n".join(lines), *view.footnotes]) + "\n"


def render_html(view, mark=lambda arm: ""):
    """An HTML figure with the table. `mark(arm)` is HTML before an arm's label: its colour on the page."""
    groups = "".join(
        f'<th colspan="{len(columns)}" scope="colgroup" class="group">{origin}</th>'
        for origin, columns in (("Reported by the paper", view.reported_columns),
                                ("Measured here", view.measured_columns)) if columns)
    firsts = {id(columns[0]) for columns in (view.reported_columns, view.measured_columns) if columns}
    headings = "".join(_heading(column, id(column) in firsts)
                       for column in [*view.reported_columns, *view.measured_columns])
    rows = []
    for row in view.rows:
        cells = [_cell(fixed(row.reported.get(column.key), column.digits), id(column) in firsts, "reported")
                 for column in view.reported_columns]
        cells += [_cell(_measured(view, column, row.measured.get(column.key)), id(column) in firsts)
                  for column in view.measured_columns]
        rows.append(f'<tr data-arm="{html.escape(row.arm)}"><th scope="row">{mark(row.arm)}'
                    f"{html.escape(row.label)}</th>{''.join(cells)}</tr>")
    notes = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in view.footnotes)
    return (f'<figure class="table"><div class="scroll" tabindex="0"><table>'
            f"<caption>{html.escape(view.title)}</caption>"
            f'<thead><tr><td></td>{groups}</tr><tr><th scope="col">Arm</th>{headings}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div><figcaption>{notes}</figcaption></figure>")


def _heading(column, first):
    arrow = f' <abbr title="{column.better} is better">{ARROWS[column.better]}</abbr>'
    arrow = arrow if column.better else ""
    return (f'<th scope="col" class="number{" first" if first else ""}">{html.escape(column.label)}'
            f"<small>{html.escape(column.unit)}{arrow}</small></th>")


def _cell(text, first, kind="measured"):
    return f'<td class="number {kind}{" first" if first else ""}">{text}</td>'


def _measured(view, column, summary):
    """A mean and its spread, where a column has any in a box as wide as the widest, so that means align."""
    if summary is None:
        return ""
    width = max(len(_spread(row.measured.get(column.key), column)) for row in view.rows)
    mean = fixed(summary.mean, column.digits)
    mean = f"<strong>{mean}</strong>" if _is_best(view, column, summary) else mean
    spread = f'<span class="spread" style="--w:{width}">{_spread(summary, column)}</span>'
    return mean + (spread if width else "")
