"""Strings of letters lose what their task says, and what is written covers every letter that was read."""

import re

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.letters import Letters, Merged, WithoutVowels
from lmlab.errors import UserError
from lmlab.text.bytes import ByteTokenizer

RULES = {
    WithoutVowels(): lambda text: re.sub(rb"[aeiouAEIOU]", b"", text),
    WithoutVowels(True): lambda text: re.sub(rb"(?<=[b-df-hj-np-tv-z])[aeiouAEIOU]", b"", text),
    Merged(): lambda text: text.replace(b"ABC", b"D"),
}


@pytest.mark.parametrize("task", RULES, ids=repr)
def test_what_is_written(task):
    documents = [d.data for planted in (None, "pairs", "triples") for d in Letters(100, 40, planted).documents()]
    documents += [b"ABCABC", b"AABC", b"aAeb", b"beeb", b"xBCA", b"ABC", b"aei", b"A", b"ABABC"]
    for document in documents:
        source, target, covered = task.pair(np.frombuffer(document, np.uint8).astype(np.int32))
        assert bytes(source.astype(np.uint8)) == document
        assert bytes(target.astype(np.uint8)) == RULES[task](document)
        assert len(covered) == len(target) + 1 and covered.sum() == len(document)
        for i in range(len(target)):  # what the first letters cover is what they are the writing of
            begun = document[: covered[: i + 1].sum()]
            assert RULES[task](begun) == bytes(target[: i + 1].astype(np.uint8))


def test_rows_hold_what_is_longer_of_source_and_target():
    tokenizer, documents = ByteTokenizer(), [d.data for d in Letters(20, 15).documents()]
    windows = WithoutVowels().windows(stream_of(documents, tokenizer), 32, tokenizer)
    batch = windows.batch(range(len(windows)))
    assert len(windows) == 10 and batch["input_segment_ids"].max() == 2
    assert batch["target_bytes"].sum() == sum(map(len, documents))


def test_what_is_planted():
    """As many as the paper's code plants, cut off at one and at what there is room for, anywhere."""
    triples, pairs, plain = ([d.data for d in Letters(2000, 62, planted).documents()] for planted in ("triples", "pairs", None))
    assert {len(d) for d in triples + pairs + plain} == {62}
    counts = np.array([d.count(b"ABC") for d in triples])
    assert counts.min() >= 1 and abs(counts.mean() - 4.6) < 0.2  # int(normal(5, 2.5)), at least 1
    starts = [m.start() for d in triples for m in re.finditer(b"ABC", d)]
    assert min(starts) == 0 and max(starts) == 59
    spared = [np.mean([WithoutVowels(True).spared(np.frombuffer(d, np.uint8))[1] for d in part]) for part in (plain, pairs)]
    assert abs(spared[0] - 61 * 21 / 52 * 10 / 52) < 0.2
    assert 9 < spared[1] < 12.5
    assert np.mean([d.count(b"ABC") for d in plain]) < 0.1
    assert [d.data for d in Letters(30).documents()] == [d.data for d in Letters(40).documents()][:30]


@pytest.mark.parametrize("task", RULES, ids=repr)
def test_what_can_be_spared_is_what_is_not_written(task):
    for document in [d.data for d in Letters(50, 40, "triples").documents()] + [b"ABCABC", b"xaeb", b"A"]:
        ids = np.frombuffer(document, np.uint8).astype(np.int32)
        may, count = task.spared(ids)
        assert count == len(document) - len(RULES[task](document))
        assert count <= may.sum() and len(may) == len(document)
        if isinstance(task, WithoutVowels):
            assert bytes(ids[~may].astype(np.uint8)) == RULES[task](document)
        else:
            assert bytes(ids[may].astype(np.uint8)) == b"ABC" * (count // 2)


def test_bad_strings_are_refused():
    for bad in ({"count": 5}, {"size": 2}, {"planted": "words"}):
        with pytest.raises(UserError, match="Strings of letters"):
            Letters(**bad)
