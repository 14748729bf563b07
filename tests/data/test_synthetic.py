"""Texts without meaning, and the two parts of the standard library."""

import pytest

from lmlab.data.library_parts import LibraryPart
from lmlab.data.synthetic import PAIRS, Brackets, RandomBytes
from lmlab.errors import UserError


def test_brackets_nest():
    closing = {p[1]: p[0] for p in PAIRS}
    for document in Brackets(10, 400).documents():
        stack = []
        for byte in document.data:
            if byte in closing:
                assert stack.pop() == closing[byte]
            else:
                stack.append(byte)
        assert not stack and len(document.data) == 400


@pytest.mark.parametrize("corpus", [Brackets(30, 100), RandomBytes(30, 100)])
def test_synthetic_documents_are_always_the_same_and_in_all_splits(corpus):
    documents = list(corpus.documents())
    assert documents == list(corpus.documents()) and len({d.data for d in documents}) == 30
    assert [sum(d.split == s for d in documents) for s in ("train", "validation", "test")] == [24, 3, 3]


def test_random_bytes_are_all_bytes():
    assert len(set(b"".join(d.data for d in RandomBytes().documents()))) == 256


@pytest.mark.parametrize("wrong", [{"count": 9}, {"size": 101}, {"size": 0}])
def test_bad_sizes(wrong):
    with pytest.raises(UserError, match="synthetic corpus needs"):
        Brackets(**wrong)


def test_prose_and_code_share_no_text():
    prose, code = (list(LibraryPart(500_000, part=part).documents()) for part in ("prose", "code"))
    assert len(prose) > 10 and len(code) > 10
    assert not any(b'"""' in d.data for d in prose)
    by_name = {d.name: d.data for d in code}
    long = [(d.name, line) for d in prose for line in d.data.splitlines() if len(line) > 60]
    assert len(long) > 100 and sum(line in by_name.get(name, b"") for name, line in long) < 0.01 * len(long)
    with pytest.raises(UserError, match="prose or code"):
        LibraryPart(part="poetry")
