import json

import pytest

from lmlab import experiment
from lmlab.data.bake import bake
from lmlab.data.mixture import Mixture
from lmlab.errors import UserError
from lmlab.text.bytes import ByteTokenizer


@pytest.fixture
def folder(tmp_path):
    """Two texts: of lines of letters, and of lines of digits that are five times as long."""
    for name, unit, files in (("words", b"abcdefg\n", 3), ("digits", b"0123456\n", 15)):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for i in range(files):
            lines = b"".join(b"%d %d %s" % (i, j, unit) for j in range(400))
            (tmp_path / "texts" / name / f"{i}.txt").write_bytes(lines)
    return str(tmp_path / "texts")


def test_each_text_gives_as_much_whatever_it_has(folder):
    mixture = Mixture(folder, 10_000, 500)
    documents = list(mixture.documents())
    assert [d.text for d in documents] == sorted((d.text for d in documents))
    for name, unit in (("words", b"abc"), ("digits", b"012")):
        own = [d.data for d in documents if d.text == name]
        assert 10_000 <= sum(map(len, own)) < 10_500 and all(unit in d and len(d) <= 500 for d in own)
    assert documents == list(mixture.documents())


def test_baked_splits_know_which_documents_are_of_which_text(folder, tmp_path):
    mixture = Mixture(folder, 10_000, 500, validation=0.2, test=0.2)
    baked = bake(mixture, ByteTokenizer(), tmp_path / "cache")
    for split in ("train", "validation", "test"):
        texts = baked.texts(split)
        assert list(texts) == ["digits", "words"]
        assert [d for documents in texts.values() for d in documents] == list(baked.documents(split))
        for name, documents in texts.items():
            expected = [d.data for d in mixture.documents() if (d.text, d.split) == (name, split)]
            share = {"train": 0.6, "validation": 0.2, "test": 0.2}[split]
            assert documents == expected and abs(sum(map(len, documents)) / 10_000 - share) < 0.06


def test_a_corpus_of_one_text_has_no_texts(tmp_path):
    (tmp_path / "one.jsonl").write_text("\n".join(json.dumps({"text": "x" * i}) for i in range(1, 99)))
    from lmlab.data.corpora import Files

    assert bake(Files(str(tmp_path / "one.jsonl"), 0.2, 0.2), ByteTokenizer(), tmp_path / "cache").texts("test") == {}


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(bytes_per_text=10_000_000), "'digits' has .* distinct bytes; a mixture takes bytes_per_text = 10,000,000"),
        (dict(path="/nowhere"), "no folder of texts at /nowhere"),
        (dict(cut=2), "at least 4 bytes"),
    ],
)
def test_what_cannot_be_mixed_is_one_sentence(folder, changes, sentence):
    mixture = Mixture(**dict(path=folder, bytes_per_text=10_000, cut=500) | changes)
    with pytest.raises(UserError, match=sentence):
        list(mixture.documents())


def test_a_folder_without_folders_is_no_mixture(tmp_path):
    (tmp_path / "loose.txt").write_bytes(b"text")
    with pytest.raises(UserError, match="has none"):
        list(Mixture(str(tmp_path)).documents())


def test_without_a_path_the_texts_are_documentation_and_code_of_the_library():
    documents = list(Mixture(None, 200_000).documents())
    assert {d.text for d in documents} == {"english", "code"}


def test_its_name_follows_every_text(folder, tmp_path):
    before = Mixture(folder).fingerprint()
    assert before == Mixture(folder).fingerprint() != Mixture(folder, cut=100).fingerprint()
    (tmp_path / "texts" / "words" / "more.txt").write_bytes(b"more")
    assert Mixture(folder).fingerprint() != before


@pytest.mark.parametrize("scale", ["smoke", "small", "mid"])
def test_the_library_has_as_much_as_the_comparison_asks_for(scale):
    texts = {d.text for d in experiment.load("bytes").resolve("mambabyte", scale).corpus.documents()}
    assert texts == {"english", "code"}
