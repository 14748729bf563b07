"""Parallel text from files and made of one text, and what its tokens cost."""

import gzip

import pytest

from experiments.token_premiums import EqualCost, Monolingual
from lmlab.data.parallel import SCRIPTS, ParallelText, in_script
from lmlab.data.sums import Sums
from lmlab.errors import UserError
from lmlab.evaluation.premiums import premium_metrics


def test_languages_of_a_folder(tmp_path):
    (tmp_path / "n.eng.txt").write_text("one\ntwo\n\nfour\n")
    with gzip.open(tmp_path / "n.deu.txt.gz", "wt") as f:
        f.write("eins\nzwei\ndrei\nvier\n")
    (tmp_path / "SOURCE.txt").write_text("x\n")
    assert ParallelText(str(tmp_path)).texts() == {"deu": [b"eins", b"zwei", b"vier"], "eng": [b"one", b"two", b"four"]}
    assert list(ParallelText(str(tmp_path), ("eng", "deu"), 2).texts().values()) == [[b"one", b"two"], [b"eins", b"zwei"]]
    with pytest.raises(UserError, match="no text in fra"):
        ParallelText(str(tmp_path), ("eng", "fra")).texts()
    (tmp_path / "n-2.eng.txt").write_bytes((tmp_path / "n.eng.txt").read_bytes())
    assert list(ParallelText(str(tmp_path), (), 1).texts()) == ["n-2.eng.txt", "deu", "n.eng.txt"]  # none is lost
    (tmp_path / "n-2.eng.txt").unlink()
    (tmp_path / "n.fra.txt").write_text("un\n")
    with pytest.raises(UserError, match="not parallel text: fra has 1 lines and deu 4"):
        ParallelText(str(tmp_path)).check()


def test_scripts_differ_in_bytes_only():
    texts = ParallelText(lines=50).texts()
    assert list(texts) == list(SCRIPTS)
    for i, name in enumerate(texts):
        assert [len(line.decode()) for line in texts[name]] == [len(line.decode()) for line in texts["latin"]]
        letters = sum(c.isalpha() and c.isascii() for c in b"".join(texts["latin"]).decode())
        assert sum(map(len, texts[name])) == sum(map(len, texts["latin"])) + i * letters
    assert in_script("aB", SCRIPTS["cyrillic"]).isalpha()


def test_premiums_of_known_counts():
    texts = {"a": [b"one two", b"three"], "b": [b"x y z", b"w"]}
    found = premium_metrics({"a": 4, "b": 12}, texts)
    assert found["tokens_per_line"] == 4 and found["largest"] == 3 and found["spread"] == pytest.approx(50)
    assert found["fertility"] == pytest.approx((4 / 3 + 12 / 4) / 2)
    assert found["bytes_per_token"] == pytest.approx((3 + 0.5) / 2)


def test_sizes_of_equal_cost_make_costs_equal():
    corpus = ParallelText(lines=800)
    before, after = (kind(corpus, 0, 450).measure() for kind in (Monolingual, EqualCost))
    assert after["spread"] < before["spread"] / 5 and after["vocabulary"] < before["vocabulary"] == 450


def test_sums_are_right_and_apart():
    documents = list(Sums(500, (1, 4), ",").documents())
    pairs = {}
    for document in documents:
        a, rest = document.data.decode().replace(",", "").split("+")
        b, total = map(int, rest.split("="))
        assert int(a) + b == total
        pairs.setdefault((min(int(a), b), max(int(a), b)), set()).add(document.split)
    assert len(pairs) == len(documents) and all(len(splits) == 1 for splits in pairs.values())
    assert any(b"1,0" in d.data or b"," in d.data for d in documents)
    assert any(b",34" in d.data for d in Sums(500, (4, 4), ",", 2).documents())
    assert all(b"," not in d.data[:-4] for d in Sums(500, (3, 3), ",", 3).documents())
    with pytest.raises(UserError, match="digits="):
        Sums(500, (4, 2))
    with pytest.raises(UserError, match="at least 1 digit"):
        Sums(group=0)
