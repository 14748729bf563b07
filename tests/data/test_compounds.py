"""Words with hyphens are gathered from text or read, each once; what is no such text ends in one sentence."""

import collections
import dataclasses

import pytest

from lmlab.data.compounds import Compounds, Hyphenated
from lmlab.data.corpora import Files, split_of
from lmlab.errors import UserError
from lmlab.text.compounds import joined

PAIRS = [("well", "known"), ("built", "in"), ("re", "use"), ("file", "like"), ("top", "level"), ("read", "only"),
         ("user", "defined"), ("line", "wise"), ("half", "open"), ("über", "all")]  # fmt: skip


@pytest.fixture
def text(tmp_path):
    words = " ".join(f"a {a}-{b} is {a}{b} " for a, b in PAIRS) + "Well-Known wellk-nown x-y 3-way a/b-c.txt snake_case "
    plain = " ".join(f"plain{chr(97 + i)} word{chr(97 + i)}" for i in range(20))
    (tmp_path / "text.txt").write_text(words + plain)
    return Files(str(tmp_path / "text.txt"))


def test_words_with_hyphens_and_as_many_without(text):
    words = [d.data for d in Hyphenated(text).documents()]
    assert set(w for w in words if b"-" in w) == {f"{a}-{b}".encode() for a, b in PAIRS}  # the commoner spelling
    assert len(set(words)) == len(words) == 2 * len(PAIRS)
    assert not {joined(w) for w in words if b"-" in w} & {w for w in words if b"-" not in w}
    assert b"snake-case" in {d.data for d in Hyphenated(text, "-_").documents()}
    (tmp := text.path) and open(tmp, "w").write("no such word, but well-known")
    with pytest.raises(UserError, match="only 1 words with a hyphen"):
        list(Hyphenated(Files(tmp, cut=9999)).documents())


def test_made_up_compounds_are_joined_of_frequent_words(tmp_path):
    letters = "abcdefghijklmnop"
    frequent = [f"{a}{b}{a}" for a in letters[:4] for b in letters[:4]]
    rare = [f"rarely{a}{b}" for a in letters for b in letters[:4]]
    (tmp_path / "t.txt").write_text(" ".join([*frequent * 3, *rare * 2, *["babcdc", "babCdc"] * 2, "once"]))
    corpus = Compounds(None, 40, 16, Files(str(tmp_path / "t.txt")))
    words = [d.data for d in corpus.documents()]
    kinds = collections.Counter(b"-" in w for w in words)
    assert kinds == {True: 20, False: 20} and len({joined(w) for w in words}) == 40
    # Not words of two frequent ones, nor run together, nor seen only once.
    assert not {b"babcdc", b"once"} & set(words)
    assert all(part.decode() in frequent for w in words if b"-" in w for part in w.split(b"-"))
    splits = [corpus.split(name) for name in ("train", "validation", "test")]
    assert sorted(sum(splits, [])) == sorted(words)
    assert all(split_of(w, 0.05, 0.1) == "test" for w in splits[2])
    halves = dataclasses.replace(corpus, count=120, validation=0.2, test=0.4)
    kinds = [sum(b"-" in w for w in halves.split(name)) / len(halves.split(name)) for name in ("train", "test")]
    assert all(0.3 < share < 0.7 for share in kinds)  # the order that chooses the words does not choose the split
    with pytest.raises(UserError, match="at most half the pairs"):
        Compounds(None, 400, 16)


def test_reads_compounds_whose_parts_are_the_word(tmp_path):
    rows = [f"ab{chr(97 + i)}cd\tab{chr(97 + i)} @@cd\t001" for i in range(12)]
    rows += [f"simple{chr(97 + i)}\tsimple{chr(97 + i)}\t000" for i in range(20)]
    rows += ["wolves\twolf @@s\t100", "changed\tchange @@ed\t001", "x-y\tx @@y\t001"]
    path = tmp_path / "words.tsv"
    path.write_text("\n".join(rows))
    words = {d.data for d in Compounds(str(path)).documents()}
    assert {w for w in words if b"-" in w} == {f"ab{chr(97 + i)}-cd".encode() for i in range(12)} and len(words) == 24
    path.write_text("\n".join(rows[:5]))
    with pytest.raises(UserError, match="holds only 0 compounds or simple words"):
        Compounds(str(path)).check()
    path.write_text("one\ttwo")
    with pytest.raises(UserError, match="no file of SIGMORPHON"):
        Compounds(str(path)).check()
