"""Held-out text as a model sees it: which bytes belong together, and how surprising each one was.

A passage is `{"bytes": [..], "surprisal": [bits per byte], "stages": [[1 where a chunk starts], ..]}`, all of
one length (`stages` is empty for a model without chunks). Text is drawn by characters, never by bytes: a
character that a chunk boundary cuts goes with its first byte and is marked.
"""

import bisect
import html
import itertools
import math

LEVELS = (0.25, 0.5, 1, 2, 3, 4, 6, 8)  # bits: the upper edges of all shades of the heat map but the last


def characters(data):
    """`bytes -> (start, stop, text)` of every UTF-8 character; text is None for a stray byte."""
    start = 0
    while start < len(data):
        text, end = None, start + 1
        for stop in range(start + 1, min(start + 4, len(data)) + 1):
            try:
                text, end = data[start:stop].decode("utf-8"), stop
                break
            except UnicodeDecodeError:
                continue
        yield start, end, text
        start = end


def glyph(text, data=b""):
    """How a character is written out: (string, kind), kind one of text, space, newline, tab, badge.

    What has no shape shows its byte in hex (control characters, invalid UTF-8) or its code point.
    """
    if text is None:
        return data.hex().upper(), "badge"
    if text in " \n\t":
        return text, {" ": "space", "\n": "newline", "\t": "tab"}[text]
    if text.isprintable():
        return text, "text"
    return f"{ord(text):02X}" if text < "\x80" else f"U+{ord(text):04X}", "badge"


def level(bits):
    """Shade of the heat map, 0 (expected) to 8."""
    return bisect.bisect_right(LEVELS, bits)


def chunks(passage):
    """Runs of characters within one chunk at every stage: yields (characters, parities, split).

    `parities` has 0 or 1 per stage and differs between neighbours where that stage starts a chunk; `split`
    says that a boundary falls inside the run's last character (it can fall in no other).
    """
    data = bytes(passage["bytes"])
    ids = [list(itertools.accumulate(starts)) for starts in passage["stages"]]
    run, parities, before, split = [], tuple(0 for _ in ids), None, False
    for start, stop, text in characters(data):
        here = [chunk[start] for chunk in ids]
        if run and here != before:
            yield run, parities, split
            run, parities = [], tuple(p ^ (old != new) for p, old, new in zip(parities, before, here))
        run.append((start, stop, text))
        before, split = here, any(chunk[start] != chunk[stop - 1] for chunk in ids)
    if run:
        yield run, parities, split


def glyph_html(text, data=b""):
    """One character as HTML; white space stays itself for copying, with a faint mark that is not copied."""
    shown, kind = glyph(text, data)
    shown = html.escape(shown)
    return {"text": shown, "space": '<i class="sp"> </i>', "newline": '<i class="mark">↵</i>\n',
            "tab": '<i class="mark">→</i>\t', "badge": f'<i class="badge">{shown}</i>'}[kind]


def text_html(text):
    """A sample as HTML, control characters visible."""
    return "".join(character if character in " \n\t" else glyph_html(character) for character in text)


def chunks_html(passage):
    """Text with alternating shades (first stage) and alternating underlines (second stage)."""
    data, spans = bytes(passage["bytes"]), []
    for run, parities, split in chunks(passage):
        classes = [f"{name}{parity}" for name, parity in zip("cu", parities)]
        shown = [glyph_html(text, data[start:stop]) for start, stop, text in run]
        if split:
            shown[-1] = f'<i class="split" title="A chunk starts inside this character.">{shown[-1]}</i>'
        spans.append(f'<span class="{" ".join(classes)}">{"".join(shown)}</span>')
    return f'<div class="text">{"".join(spans)}</div>'


def surprisal_html(passage):
    """Text shaded by bits per byte; a character of several bytes has a band per byte; titles give all."""
    data, spans = bytes(passage["bytes"]), []
    for start, stop, text in characters(data):
        bits = passage["surprisal"][start:stop]
        title = f"{data[start:stop].hex(' ').upper()}: {' + '.join(f'{value:.2f}' for value in bits)} bits"
        levels = [level(value) for value in bits]
        style = f' class="h{levels[0]}"' if len(set(levels)) == 1 else f' style="background:{_bands(levels)}"'
        spans.append(f'<b{style} title="{title}">{glyph_html(text, data[start:stop])}</b>')
    return f'<div class="text heat">{"".join(spans)}</div>'


def scale_html():
    """What the shades of `surprisal_html` mean."""
    edges = [f"{edge:g}" for edge in LEVELS]
    between = (f"{low} to {high}" for low, high in zip(edges, edges[1:]))
    names = [f"below {edges[0]}", *between, f"{edges[-1]} and up"]
    keys = "".join(f'<li class="h{i}">{name}</li>' for i, name in enumerate(names))
    return f'<ol class="scale" aria-label="Bits per byte">{keys}<li class="unit">bits</li></ol>'


def _bands(levels):
    width = 100 / len(levels)
    bands = (f"var(--h{shade}) {i * width:.0f}% {(i + 1) * width:.0f}%" for i, shade in enumerate(levels))
    return f"linear-gradient(90deg,{','.join(bands)})"


def describe_chunks(passage):
    """"61 chunks of 5.2 bytes", for every stage; of one in which none begins, "a part of one chunk"."""
    length, counts = len(passage["bytes"]), [sum(starts) for starts in passage["stages"]]
    return ", then ".join(f"{n} chunks of {length / n:.1f} bytes" if n else "a part of one chunk" for n in counts)


def describe_surprisal(passage):
    """Mean bits per byte of the passage."""
    return f"{math.fsum(passage['surprisal']) / max(len(passage['bytes']), 1):.2f} bits per byte"
