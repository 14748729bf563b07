"""Every word is there once, in one split and one language; scripts share no text."""

import collections
import dataclasses

import pytest

from lmlab.data.corpora import split_of
from lmlab.data.foreign_tokenizer import TrainedOn
from lmlab.data.languages import WORD, InScript, Languages, UniqueWords
from lmlab.data.parallel import SCRIPTS, in_script
from lmlab.errors import UserError
from lmlab.text.cuts import BPECuts

LETTERS = "abcdefghij"


@pytest.fixture
def folder(tmp_path):
    for name, first in (("one", "q"), ("two", "жш")):
        (tmp_path / name).mkdir()
        words = [f"{first}{a}{b}{c}" for a in LETTERS for b in LETTERS for c in LETTERS[:4]]
        (tmp_path / name / "t.txt").write_text("\n".join(words + words + ["shared", "x1y", "a"] * 9) + ".\n")
    return Languages(str(tmp_path), 2500, 300)


def test_every_word_is_in_one_document(folder):
    documents = list(UniqueWords(folder, words=30).documents())
    counts = collections.Counter(word for d in documents for word in d.data.decode().split(" "))
    assert set(counts.values()) == {1} and "shared" in counts and not {"x1y", "a"} & set(counts)
    for d in documents:
        words = d.data.decode().split(" ")
        assert len(words) <= 30
        assert all(w == "shared" or w.startswith({"one": "q", "two": "жш"}[d.text]) for w in words)
    assert [d.text for d in documents] == sorted(d.text for d in documents)
    few = collections.Counter(d.text for d in UniqueWords(folder, words=1, most=100).documents())
    assert few == {"one": 100, "two": 100}
    with pytest.raises(UserError, match="different words, none of them for"):
        list(UniqueWords(folder, most=2).documents())


def test_no_word_of_test_documents_alone_is_trained_on(folder):
    held = collections.defaultdict(set)
    for d in folder.documents():
        held[d.split].update(WORD.findall(d.data.decode("utf-8", "replace")))
    split = {word: d.split for d in UniqueWords(folder).documents() for word in d.data.decode().split(" ")}
    assert split.keys() == held["train"] | held["validation"] | held["test"]
    for word in held["train"]:
        assert split[word] == split_of(word.encode(), 0.05, 0.1)
    alone = (held["validation"] | held["test"]) - held["train"]
    assert sum(split_of(word.encode(), 0.05, 0.1) == "train" for word in alone) > 10
    assert all(split[word] in ("validation", "test") and word in held[split[word]] for word in alone)
    larger = dataclasses.replace(folder, test=0.3)
    assert UniqueWords(larger).fingerprint() != UniqueWords(folder).fingerprint()  # what is baked is another


def test_scripts_share_no_text():
    parts = [[d.data.decode() for d in InScript(200_000, script=s, number=i, of=2).documents()]
             for i, s in enumerate(("latin", "cyrillic"))]  # fmt: skip
    whole = [d.data.decode("utf-8", "replace") for d in InScript(200_000).documents()]
    assert parts[0] == whole[::2] and parts[1] == [in_script(text, SCRIPTS["cyrillic"]) for text in whole[1::2]]
    assert parts[1][0].encode() != whole[1].encode()


def test_a_teacher_cuts_words_as_it_cuts_its_text(folder):
    """Trained on the mixture, it is the same whether the mixture or its words are read."""
    recipe = TrainedOn(BPECuts(pieces=300), folder)
    train = (d.data for d in folder.documents() if d.split == "train")
    assert recipe.train([]) == BPECuts(pieces=300).train(train)
    assert recipe.annotation_shapes(8) == {"cuts": (8,)}
