import html
import io
import re

import pytest
from rich.console import Console

from lmlab.report.passages import characters, chunks, chunks_html, describe_chunks, level, surprisal_html
from lmlab.report.terminal import print_chunks, print_surprisal, training_progress
from tests.report.fakes import TEXT, make_passage


def plain(markup):
    """The text of the markup, as copied: without marks, badges as ‹hex›."""
    markup = re.sub(r'<i class="mark">.</i>', "", markup)
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r'<i class="badge">(.*?)</i>', r"‹\1›", markup)))


def passage(text, *stages):
    return {"bytes": list(text), "surprisal": [1.0] * len(text), "stages": list(stages)}


def test_characters_cover_every_byte_and_decode_what_is_utf8():
    found = list(characters(TEXT))
    assert b"".join(TEXT[start:stop] for start, stop, _ in found) == TEXT
    assert all(TEXT[start:stop].decode() == text for start, stop, text in found if text is not None)
    assert b"".join(TEXT[start:stop] for start, stop, text in found if text is None) == b"\xff\xfe\xe2\x82"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("show", [chunks_html, surprisal_html])
def test_multi_byte_characters_survive_any_chunks(show, seed):
    shown = plain(show(make_passage(2, seed)))
    assert shown == TEXT.split(b"\0")[0].decode() + "‹00›‹1B›[31m ‹FF›‹FE› end ‹E2›‹82›"


def test_neighbouring_chunks_differ_and_a_split_character_goes_with_its_first_byte():
    text = "aé你b".encode()  # bytes: a, é é, 你 你 你, b
    found = list(chunks(passage(text, [1, 0, 1, 0, 1, 1, 0])))
    assert ["".join(c for _, _, c in run) for run, _, _ in found] == ["aé", "你", "b"]
    assert [parities for _, parities, _ in found] == [(0,), (1,), (0,)]
    assert [split for _, _, split in found] == [True, True, False]


def test_two_stages_alternate_on_their_own():
    found = list(chunks(passage(b"abcdef", [1, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0])))
    assert [parities for _, parities, _ in found] == [(0, 0), (1, 0), (0, 1)]


def test_a_character_shows_the_bits_of_each_of_its_bytes():
    shown = surprisal_html({"bytes": list("é<".encode()), "surprisal": [5.0, 0.1, 0.3], "stages": []})
    assert 'title="C3 A9: 5.00 + 0.10 bits"' in shown and "var(--h6) 0% 50%,var(--h0) 50% 100%" in shown
    assert '<b class="h1" title="3C: 0.30 bits">&lt;</b>' in shown
    assert [level(bits) for bits in (0, 0.25, 7.9, 8, 100)] == [0, 1, 7, 8, 8]


@pytest.mark.parametrize("colours", [None, "truecolor"])
def test_the_terminal_shows_all_text_and_no_control_byte(colours):
    out = io.StringIO()
    console = Console(file=out, width=60, color_system=colours, force_terminal=colours is not None)
    print_chunks(console, make_passage(2))
    print_surprisal(console, make_passage(2))
    print_chunks(console, make_passage(0))
    shown = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
    assert not re.search(r"[\x00\x1b]", shown) and shown.count("‹FF›") == 3
    assert all(shown.count(character) >= 3 for character in "你好世界🙂ïé")
    assert ("|" in shown) == (colours is None)


def test_progress_prints_a_line_per_tenth_and_resumes(capsys):
    with training_progress(200, start_step=100) as progress:
        for step in range(101, 201):
            progress.update(step, loss=2.0, bpb=2.885, bytes_per_second=51000)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["120/200", "140/200", "160/200", "180/200", "200/200"]
    assert "loss 2.000  2.885 bits per byte  51 kB/s" in lines[0] and lines[0].endswith("left")


def test_chunks_are_counted():
    passage = {"bytes": list(b"0123456789"), "stages": [[1, 0, 0, 1, 0, 0, 0, 1, 0, 0], [0] * 10]}
    assert describe_chunks(passage) == "3 chunks of 3.3 bytes, then a part of one chunk"
