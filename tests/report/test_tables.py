import io
import math

from rich.console import Console

from lmlab.report.results import Summary
from lmlab.report.tables import Column, Row, TableView, render_html, render_markdown, render_terminal

REPORTED = [Column("accuracy", "HellaSwag", "%", "higher", 1)]
MEASURED = [Column("bpb", "Validation", "bits per byte", "lower", 2),
            Column("chunk", "Chunk", "bytes", None, 1)]
VIEW = TableView("A table", REPORTED, MEASURED, [
    Row("a", "Arm | a", {"accuracy": 51.23}, {"bpb": Summary(2.104, 0.03, 3), "chunk": Summary(5.0)}),
    Row("b", "<b>", {}, {"bpb": Summary(2.101)}),
    Row("c", "C", {"accuracy": 40.0}, {"bpb": Summary(2.5), "chunk": Summary(6.0)}),
    Row("d", "Diverged", {}, {"bpb": Summary(math.nan)}),
], source="Paper, Table 3.", note="A note.")


def cells(line):
    return [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]


def test_markdown_has_one_cell_per_column_and_blanks_for_the_unknown():
    lines = [line for line in render_markdown(VIEW).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(VIEW.rows)
    assert {len(cells(line)) for line in lines} == {4}
    assert cells(lines[0]) == ["", "HellaSwag (% ↑), paper", "Validation (bits per byte ↓), here",
                               "Chunk (bytes), here"]
    assert cells(lines[2]) == ["Arm / a", "51.2", "**2.10 ±0.03**", "5.0"]
    assert cells(lines[3]) == ["<b>", "", "**2.10**", ""]
    assert cells(lines[5]) == ["Diverged", "", "nan", ""]


def test_the_best_is_by_printed_digits_and_needs_a_rival_and_a_direction():
    assert VIEW.best(MEASURED[0]) == 2.1
    assert VIEW.best(MEASURED[1]) is None
    assert TableView("", [], MEASURED, VIEW.rows[:1]).best(MEASURED[0]) is None
    higher = Column("bpb", "", "", "higher")
    assert VIEW.best(higher) == 2.5


def test_footnotes_name_source_and_spread_only_where_there_are_any():
    assert VIEW.footnotes == ["Reported values: Paper, Table 3.", "A note.",
                              "± is the sample standard deviation over seeds; where none is shown, all agree, or there is one "
                              "alone."]
    assert TableView("", [], MEASURED, VIEW.rows[1:], "Paper").footnotes == []
    alike = [Row("a", "A", {}, {"bpb": Summary(2.0, 0.0, 3)}), Row("b", "B", {}, {"bpb": Summary(2.0, 0.1, 3)})]
    assert TableView("", [], MEASURED, alike).footnotes[-1].endswith("none is shown, all agree.")


def test_html_is_escaped_and_bold_where_best():
    page = render_html(VIEW, mark=lambda arm: f"({arm})")
    assert "(b)&lt;b&gt;" in page and "<b>" not in page
    assert page.count("<strong>") == 2 and "<strong>2.10</strong>" in page
    assert '<td class="number reported first"></td>' in page


def test_the_terminal_shows_every_number():
    out = io.StringIO()
    Console(file=out, width=100).print(render_terminal(VIEW))
    for text in ("A table", "51.2", "2.10 ±0.03", "Arm | a", "<b>", "paper", "here", "Paper, Table 3"):
        assert text in out.getvalue()
