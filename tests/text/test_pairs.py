"""Two tokenizers over the same bytes: chunks cover every byte, in both, and batches say so."""

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows
from lmlab.errors import UserError
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.pairs import Beside, align, begins_word

DOCUMENTS = [b"the reader reads what the writer writes, \xe9 \xff " * n for n in (3, 9, 1, 5)]
DOCUMENTS += ["the 世界 of the writer ".encode() * 20, b"\xff\xfe raw \xfe"]


@pytest.fixture(scope="module")
def paired():
    """A small BPE beside bytes, and beside another BPE."""
    small, large = BPE(262), BPE(280)
    return {"bytes": Beside(ByteTokenizer(), large).train(DOCUMENTS), "subword": Beside(small, large).train(iter(DOCUMENTS))}


def test_chunks_end_where_both_end_and_cover_all():
    a, b, n = align([1, 2, 5, 6, 9], [2, 6, 7, 9])
    assert (a.tolist(), b.tolist(), n) == ([0, 0, 1, 1, 2], [0, 1, 2, 2], 3)
    ends = np.arange(1, 8)
    a, b, n = align(ends, ends)
    assert n == 7 and (a == b).all() and (a == np.arange(7)).all()
    with pytest.raises(UserError, match="different bytes"):
        align([1, 2], [3])


@pytest.mark.parametrize("kind", ["bytes", "subword"])
@pytest.mark.parametrize("length", [16, 48])
def test_the_chunks_of_a_batch_hold_the_same_bytes_in_both(paired, kind, length):
    tokenizer = paired[kind]
    windows = Windows(stream_of(DOCUMENTS, tokenizer), length, tokenizer)
    covered = 0
    for index in range(len(windows)):
        batch = {k: v[0] for k, v in windows.batch([index]).items()}
        ours, theirs = batch["chunks"], batch["teacher_chunks"]
        assert set(ours) - {-1} == set(theirs) - {-1}
        assert (ours[batch["weights"] == 0] == -1).all()
        for chunk in set(ours) - {-1}:
            parts = [
                x.decode(targets[chunks == chunk])
                for x, targets, chunks in (
                    (tokenizer.student, batch["targets"], ours),
                    (tokenizer.teacher, batch["teacher_targets"], theirs),
                )
            ]
            if batch["target_bytes"][ours == chunk].sum():
                assert parts[0] == parts[1] and len(parts[0]) == batch["target_bytes"][ours == chunk].sum()
            else:  # the end of a document
                assert batch["targets"][ours == chunk].tolist() == [tokenizer.student.eos]
                assert batch["teacher_targets"][theirs == chunk].tolist() == [tokenizer.teacher.eos]
        covered += batch["target_bytes"][ours >= 0].sum()
        scored = batch["weights"] > 0
        if batch["tokens"][0] == tokenizer.bos:
            assert (ours[scored] >= 0).all()  # all of it
    assert covered > 0.6 * sum(map(len, DOCUMENTS))


def test_equal_tokenizers_give_a_chunk_per_token():
    tokenizer = Beside(ByteTokenizer(), ByteTokenizer()).train([])
    batch = Windows(stream_of([b"some text", b"more of it"], tokenizer), 12, tokenizer).batch([0, 1])
    np.testing.assert_array_equal(batch["teacher_tokens"][:, :12] * (batch["segment_ids"] > 0), batch["tokens"])
    scored = batch["weights"] > 0
    np.testing.assert_array_equal(batch["chunks"][:, :12] >= 0, scored)
    for row in batch["chunks"]:
        np.testing.assert_array_equal(row[row >= 0], np.arange((row >= 0).sum()))


def test_what_does_not_fit_is_in_no_chunk(paired):
    tokenizer = paired["bytes"]
    tight = Beside(ByteTokenizer(), tokenizer.teacher, 0.125)
    assert tight.annotation_shapes(64)["teacher_tokens"] == (8,)
    tight = type(tokenizer)(tokenizer.student, tokenizer.teacher, 0.125)
    batch = Windows(stream_of(DOCUMENTS, tight), 64, tight).batch(range(4))
    for ours, theirs in zip(batch["chunks"], batch["teacher_chunks"], strict=True):
        assert set(ours) | {-1} == set(theirs) | {-1} and len(set(ours)) > 1
    whole = Windows(stream_of(DOCUMENTS, tokenizer), 64, tokenizer).batch(range(4))
    assert (batch["chunks"] >= 0).sum() < (whole["chunks"] >= 0).sum()
    kept = batch["chunks"] >= 0
    np.testing.assert_array_equal(batch["chunks"][kept], whole["chunks"][kept])


def test_both_are_saved_as_one_file(paired, tmp_path):
    paired["subword"].save(tmp_path / "tokenizer.json")
    again = Beside(BPE(262), BPE(280)).load(tmp_path / "tokenizer.json")
    assert again.fingerprint == paired["subword"].fingerprint and again.vocab_size == 262
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(UserError, match="does not hold two tokenizers"):
        Beside(BPE(262), BPE(280)).load(tmp_path / "bad.json")


def test_words_begin_with_white_space_or_the_end(paired):
    words = begins_word(ByteTokenizer(), 260)
    assert np.flatnonzero(words).tolist() == [9, 10, 13, 32, 255]
    teacher = paired["bytes"].teacher
    for i in np.flatnonzero(begins_word(teacher, teacher.vocab_size)):
        assert i == teacher.eos or teacher.token_bytes(int(i))[:1].isspace()
