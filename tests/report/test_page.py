import html.parser
import json
import re

import pytest

from lmlab.report.curves import Style, chart, mean, smooth, thin, ticks
from lmlab.report.page import write_page
from lmlab.report.results import Points, Summary
from lmlab.report.tables import Column, Row, TableView
from lmlab.report.times import PARTS, describe
from tests.report.fakes import ARMS, load_all, make_passage, make_run

LABELS = {arm: row[0] for arm, row in ARMS.items()}
EVIL = '</title></style><script src="https://evil.example/x.js">alert(1)</script>"\'&\x00\x1b\x9b\ud800\u202e'
VOID = {"meta", "link", "br", "img"}


class Page(html.parser.HTMLParser):
    """Fails on a tag left open or closed twice; collects tags and visible text."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        assert len({name for name, _ in attributes}) == len(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def write(tmp_path, results, title="Title", labels=LABELS, provenance=None):
    view = TableView("Table", [], [Column("bpb", "Validation", "bits per byte", "lower", 2)],
                     [Row(run.arm, labels.get(run.arm, "?"), {}, {"bpb": Summary(2.0)}) for run in results])
    path = tmp_path / "out" / "report.html"
    write_page(path, title, "A claim.", [view], results, provenance or {"command": "lmlab table"}, labels)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def results(tmp_path):
    for arm in ARMS:
        for seed in range(2):
            make_run(tmp_path / "runs", arm, seed, steps=32)
    return load_all(tmp_path / "runs")


def test_the_page_says_where_the_wall_time_went(tmp_path):
    assert "Goodput" not in write(tmp_path, load_all(tmp_path / "runs"))
    for seed, share in enumerate((0.5, 0.7)):
        path = make_run(tmp_path / "runs", "bpe", seed, steps=16) / "metrics.jsonl"
        parts = dict.fromkeys(PARTS, 1.0) | {"kept": share * 100, "down": 100 - 6 - share * 100}
        line = {"kind": "goodput", "step": 16, "goodput": share, "seconds": 100.0}
        line |= {f"seconds/{part}": s for part, s in parts.items()}
        path.write_text(path.read_text() + json.dumps(line) + "\n")
    make_run(tmp_path / "runs", "mambabyte", steps=16)
    text = Page(write(tmp_path, load_all(tmp_path / "runs"))).text
    assert "Goodput" in text and "1 min 40 s60%1 min 00 s1.0 s" in text
    assert describe(line) == (
        "goodput 70%: of 1 min 40 s since the first start 1 min 10 s went into steps that were kept (undone steps 1.0 s, "
        "start 1.0 s, compile 1.0 s, evaluation 1.0 s, checkpoints 1.0 s, down 24.0 s)"
    )


def test_the_page_is_well_formed_complete_and_alone(tmp_path, results):
    source = write(tmp_path, results)
    page = Page(source)
    ids = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert [link[1:] for link in links] == ["table", "curves", "chunks", "surprisal", "samples", "provenance"]
    assert {link[1:] for link in links} <= ids
    assert not {"src", "srcset", "xlink:href"} & {name for _, attributes in page.tags for name in attributes}
    assert not any(tag in ("link", "img", "iframe", "object") for tag, _ in page.tags)
    assert not re.search(r"url\((?!#)|@import|https?://", source)
    assert len(source) < 3_000_000
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]  # no draft is left


def test_every_arm_is_in_both_charts_and_keeps_its_colour(results):
    for x in ("bytes", "flops"):
        svg = chart(results, LABELS, x)
        for index, arm in enumerate(ARMS):
            group = svg.split(f'<g data-arm="{arm}" style="')[1]
            assert group.startswith(f"--c:var(--arm{index}") and 'class="held-out"' in group.split("</g>")[0]
    some = [result for result in results if result.arm == "transformer"]
    assert Style(5).css in chart(some, LABELS)


def test_sixteen_arms_look_different():
    looks = {(Style(i).css, Style(i).marker) for i in range(16)}
    assert len(looks) == 16


def test_model_text_and_names_cannot_become_markup(tmp_path):
    run = make_run(tmp_path / "runs", "hnet_2stage", steps=16)
    record = json.loads((run / "result.json").read_text())
    passage = make_passage(2, 0, EVIL.encode("utf-8", "replace") + b"\xf0")
    evil = {"arm": EVIL, "sample": EVIL, "passages": [passage]}
    (run / "result.json").write_text(json.dumps(record | evil))
    source = write(tmp_path, load_all(tmp_path), title=EVIL, labels={EVIL: EVIL},
                   provenance={EVIL: [EVIL, {EVIL: EVIL}]})
    page = Page(source)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    assert "<script src" not in source
    body = source.split('<section id="chunks"')[1].split('<section id="provenance"')[0]
    shown = re.sub(r'data-arm="[^"]*"|<figcaption>.*?</figcaption>', "", body)
    assert not re.search("[\x00\x1b\x9b\u202e]", shown)


def test_nothing_finished_still_makes_a_page(tmp_path):
    page = Page(write(tmp_path, []))
    assert "No run of this table has finished yet." in page.text
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["#table", "#provenance"]


def test_a_run_without_text_or_evaluations_is_a_row_and_no_more(tmp_path):
    run = make_run(tmp_path / "runs", "bpe", steps=16, passages=[], sample="", metrics={})
    (run / "metrics.jsonl").unlink()
    page = Page(write(tmp_path, load_all(tmp_path)))
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["#table", "#provenance"]


@pytest.mark.parametrize("rows", [
    [{"kind": "evaluation", "step": 1, "bytes": 100, "split": "validation", "bpb": 8.0}],
    [{"kind": "evaluation", "step": 0, "bytes": 0, "split": "validation", "bpb": 8.0},
     {"kind": "train", "step": 1, "bytes": 10, "bpb": 8.0}],
    [{"kind": "evaluation", "step": 0, "bytes": 0, "split": "validation", "bpb": 8.0}],
])
def test_few_points_are_drawn_without_nonsense(tmp_path, rows):
    run = make_run(tmp_path, "bpe", steps=16)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    svg = chart(load_all(tmp_path), LABELS)
    assert bool(svg) == any(row["bytes"] for row in rows) and "nan" not in svg


def test_smoothing_keeps_a_constant_and_a_mean_aligns_steps():
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    assert smooth([1.0, 3.0, 5.0]) == [1.0, 3.0, 5.0]
    both = mean([Points([1, 2, 3], [10, 20, 30], [1.0, 2.0, 3.0]), Points([1, 3], [12, 34], [2.0, 5.0])])
    assert both == Points([1, 3], [11, 32], [1.5, 4.0])
    long = thin(Points(list(range(5000)), list(range(5000)), [0.0] * 5000))
    assert len(long.x) <= 201 and long.x[-1] == 4999 and long.x[0] == 0


@pytest.mark.parametrize("low, high, log", [(2e4, 3e6, True), (1e12, 1e21, True), (2.1, 3.3, False),
                                            (0.5, 8.1, False)])
def test_ticks_are_few_and_within(low, high, log):
    found = ticks(low, high, log)
    assert 3 <= len(found) <= 8 and found == sorted(found) and low <= found[0] and found[-1] <= high
