"""What the README shows works, and the results page says what the committed measurements say."""

import json
import pathlib
import re

import pytest

from lmlab import experiment
from lmlab.runner import load_table, table_view

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "experiments" / "results").glob("*.json"))


def test_the_example_experiment_resolves():
    text = (ROOT / "README.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "EXPERIMENT" in block)
    assert len(code.splitlines()) <= 45
    scope = {}
    exec(compile(code, "README.md", "exec"), scope)
    found = scope["EXPERIMENT"]
    flops = [sum(found.resolve(a.name, "smoke").flops_per_byte().values()) for a in found.arms]
    assert flops == sorted(flops, reverse=True)


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_results_page_holds_the_committed_tables(path):
    from lmlab.report.tables import render_markdown

    results, provenance = load_table(path)
    found = experiment.load(path.stem.rsplit("_", 1)[0])
    page = (ROOT / "experiments" / "README.md").read_text()
    for table in found.tables:
        assert render_markdown(table_view(found, table, results)).strip() in page
    assert provenance["commit"] in page and provenance["command"] in page


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "results" / "published").glob("qtok_*.json")), ids=lambda p: p.stem)
def test_results_page_holds_what_published_tokenizers_came_to(path):
    found = json.loads(path.read_text())
    shown = {"vocabulary": ",.0f", "script/latin": ".1f", "used": ".1f", "fragments_used": ".1f", "whole_words": ".1f",
             "fertility": ".2f", "bytes_per_token": ".2f"}
    row = " | ".join(format(found["metrics"][name], digits) for name, digits in shown.items())
    page = (ROOT / "experiments" / "README.md").read_text()
    assert f"| {row} |" in page and found["command"].split("file=")[0] in " ".join(page.split())


def test_what_is_measured_is_linked_to_its_section():
    """Every experiment with committed results; anchors as GitHub makes them of headings."""
    headings = re.findall(r"^## (.*)$", (ROOT / "experiments" / "README.md").read_text(), re.M)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = {}
    for line in (ROOT / "README.md").read_text().splitlines():
        for name, anchor in re.findall(r"\(experiments/(\w+)\.py\).*\(experiments/README\.md#([\w-]+)\)", line):
            linked[name] = anchor
    assert set(linked.values()) <= anchors
    assert {path.stem.rsplit("_", 1)[0] for path in RESULTS} <= set(linked)
