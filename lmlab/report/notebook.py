"""Pieces of the page for a notebook: each is an object that shows itself as the last line of a cell."""

import html

from lmlab.report import passages as text
from lmlab.report.curves import Style, chart
from lmlab.report.page import asset, grid
from lmlab.report.tables import render_html


class Piece:
    """HTML that brings the page's style with it and keeps it to itself."""

    def __init__(self, content):
        self.content = content

    def _repr_html_(self):
        # Nested, the page's rules reach nothing outside; its variables move from the root to the piece.
        nested = asset("page.css").replace(":root", "&")
        own = "background:var(--paper);color:var(--ink);font:1rem/1.55 var(--sans);padding:.8rem;"
        room = ".scale{margin-bottom:1rem}.chart{max-width:38rem}"  # on the page, its sections see to that
        return f'<div class="lmlab"><style>.lmlab{{{own}{nested}{room}}}</style>{self.content}</div>'


def _panels(passages, describe, show, columns):
    panels = [
        f'<figure class="panel"><figcaption>{html.escape(label)}<small>{describe(passage)}</small></figcaption>'
        f"{show(passage)}</figure>"
        for label, passage in passages.items()
    ]
    return grid(panels, columns)


def chunks(passages, columns=2):
    """`{label: passage}` (lmlab/report/passages.py) cut where the model cuts them."""
    return Piece(_panels(passages, text.describe_chunks, text.chunks_html, columns))


def surprisal(passages, columns=2):
    """The same, shaded by the bits of every byte; pointing at a character shows them."""
    return Piece(text.scale_html() + _panels(passages, text.describe_surprisal, text.surprisal_html, columns))


def table(view):
    """A `TableView`."""
    return Piece(render_html(view))


def curves(results, labels):
    """Learning curves of finished runs over training bytes and over training FLOPs. `labels`: {arm: label}."""
    legend = "".join(f"<li>{Style(i).swatch()}{html.escape(label)}</li>" for i, label in enumerate(labels.values()))
    charts = "".join(chart(results, labels, x) for x in ("bytes", "flops"))
    return Piece(f'<ul class="legend">{legend}</ul><div class="charts">{charts}</div>')
