"""Pieces for notebooks: whole, and styled without touching the page around them."""

import re

from lmlab.report import notebook
from lmlab.report.results import Summary
from lmlab.report.tables import Column, Row, TableView
from tests.report.fakes import ARMS, TEXT, load_all, make_passage, make_run
from tests.report.test_page import Page

EVIL = "<script>alert(1)</script>"


def pieces(tmp_path):
    make_run(tmp_path, "bpe", steps=32)
    view = TableView(EVIL, [], [Column("bpb", EVIL)], [Row("a", EVIL, {}, {"bpb": Summary(2.0)})])
    passages = {EVIL: make_passage(2), "B": make_passage(0)}
    return [notebook.chunks(passages), notebook.surprisal(passages, columns=1), notebook.table(view),
            notebook.curves(load_all(tmp_path), {"bpe": ARMS["bpe"][0]})]


def test_pieces_are_whole_and_escape_what_they_show(tmp_path):
    for piece in pieces(tmp_path):
        page = Page(piece._repr_html_())
        assert page.tags[0] == ("div", {"class": "lmlab"}) and "script" not in {tag for tag, _ in page.tags}
    assert TEXT.decode(errors="ignore")[:20] in Page(pieces(tmp_path / "again")[0].content).text


def test_style_reaches_the_piece_only(tmp_path):
    style = re.search("<style>(.*)</style>", pieces(tmp_path)[0]._repr_html_(), re.S)[1]
    depth, outside = 0, ""
    for character in style:
        depth += {"{": 1, "}": -1}.get(character, 0)
        outside += character if depth == 0 else ""
    assert outside == ".lmlab}" and depth == 0 and ":root" not in style and "--c0:" in style
