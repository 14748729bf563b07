"""Gaps: nothing of the text is lost, what is written is read back, and a batch is a pure function of seed and step."""

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.batches import TrainBatches, Windows, evaluation_batches
from lmlab.data.infilling import FillIn, byte_places, rows_of
from lmlab.errors import UserError
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.infill import MARKS, AtCharacters, AtLines, AtTokens, SuffixFirst, ids_of

DOCUMENTS = [b"def f(x):\n    return x + 1\n\nprint(f(2))\n" * 6, "naïve\ncafé 世界 🙂\n".encode() * 3, b"x", b"\xfe\xff raw\n"]
TOKENIZER = BPE(280).train(DOCUMENTS)
KINDS = [AtCharacters(), AtTokens(), SuffixFirst(), AtLines()]
GAP = (b"a = 1\nfoo(b", b"ar)\nx = ", b"baz\nend\n")


def test_a_gap_in_lines_shows_and_writes_whole_lines():
    read, write = AtLines().shown(*GAP)
    assert read == ("PRE", b"a = 1\n", "SUF", b"end\n", "START", b"foo(b", "END", b"baz\n", "MID")
    assert write == b"foo(bar)\nx = baz\n"
    assert AtCharacters().shown(*GAP) == (("PRE", GAP[0], "SUF", GAP[2], "MID"), GAP[1])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("gap", [GAP, (b"", b"", b""), (b"\n", b"x", b"\n"), (b"ab", b"\n", b"cd"), (b"", b"all\n", b"")])
def test_the_middle_is_found_in_what_should_be_written(kind, gap):
    assert kind.found(kind.shown(*gap)[1], gap[0], gap[2]) == gap[1]


def test_lines_that_do_not_begin_and_end_as_shown_hold_no_middle():
    kind = AtLines()
    assert kind.found(b"foo(bX)baz\n", *GAP[::2]) == b"X)"
    assert kind.found(b"foo(X)baz\n", *GAP[::2]) is None and kind.found(b"foo(bX)baz", *GAP[::2]) is None
    assert kind.found(b"aba", b"ab", b"ba") is None  # they overlap


def test_lines_are_of_the_text_s_own_tokens():
    """The written lines are tokenized as in the text, whatever the place of the cut."""
    text = DOCUMENTS[0]
    lines = text.splitlines(keepends=True)
    whole = b"".join(lines[:3])
    for cut in range(len(lines[0]), len(whole) - 1):
        _, write = AtLines().shown(whole[:cut], b"", whole[cut:])
        assert write in lines


def test_gaps_between_tokens_cut_no_token():
    text = DOCUMENTS[0]
    cuts = {0, *TOKENIZER.byte_spans(TOKENIZER.encode(text))[:, 1].tolist()}
    for at in range(0, len(text), 3):
        a, b = AtTokens().moved(text, at, len(text), TOKENIZER)
        assert a in cuts and at - 20 < a <= at and b == len(text)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, ByteTokenizer()], ids=["bpe", "bytes"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_a_row_holds_what_is_read_and_what_is_written(kind, tokenizer):
    row = rows_of(kind, *GAP, tokenizer)
    read, write = kind.shown(*GAP)
    expected = [tokenizer.bos, *ids_of(tokenizer, *read, write), tokenizer.eos]
    assert row["tokens"].tolist() == expected[:-1] and row["targets"].tolist() == expected[1:]
    assert row["target_bytes"].sum() == sum(len(part) for part in (*read, write) if isinstance(part, bytes))
    only = rows_of(kind, *GAP, tokenizer, only_middle=True)
    assert only["target_bytes"].sum() == len(GAP[1])
    assert only["targets"][only["weights"] > 0].tolist() == [*tokenizer.encode(write), tokenizer.eos]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_training_shows_gaps_in_a_share_of_the_rows(kind):
    corruption = FillIn(kind, 0.5)
    stream, length = stream_of(DOCUMENTS, TOKENIZER), 80
    made = corruption.windows(stream, length, TOKENIZER)
    plain = Windows(stream, corruption.text_tokens(length), TOKENIZER)
    gaps = 0
    for seed in range(30):
        for i in range(len(made)):
            batch = made.batch([i], [(seed, i)])
            assert {n: a.shape[1:] for n, a in batch.items()} == corruption.shapes(length)
            if not (batch["tokens"] == TOKENIZER.vocab_size + MARKS.index("MID")).any():
                np.testing.assert_array_equal(batch["tokens"][:, : plain.length], plain.batch([i])["tokens"])
                continue
            gaps += 1
            text = TOKENIZER.decode(plain.batch([i])["targets"][0])
            ids = batch["targets"][0][batch["weights"][0] > 0][:-1]
            parts = {MARKS[p[0] - TOKENIZER.vocab_size]: TOKENIZER.decode(p[1:]) for p in
                     np.split(ids, np.flatnonzero(ids >= TOKENIZER.vocab_size))[1:]}
            middle = parts["PRE"] + parts["MID"] + parts["SUF"]
            assert middle in text and len(middle) > 0
            assert all(parts[mark] in parts["MID"] for mark in ("START", "END") if mark in parts)
    assert 0.3 < gaps / (30 * len(made)) < 0.6


def test_a_batch_is_a_pure_function_of_seed_and_step():
    made = FillIn().windows(stream_of(DOCUMENTS, TOKENIZER), 40, TOKENIZER)
    whole, part = TrainBatches(made, 4, 0), TrainBatches(made, 4, 0, [1, 3])
    for step in (3, 0, 7, 3):
        for name, array in part.batch(step).items():
            np.testing.assert_array_equal(array, whole.batch(step)[name][[1, 3]])


def test_evaluation_shows_text_as_it_is():
    stream = stream_of(DOCUMENTS, TOKENIZER)
    made = FillIn().windows(stream, 40, TOKENIZER)
    assert sum(int(b["target_bytes"].sum()) for b in evaluation_batches(made, 3)) == sum(map(len, DOCUMENTS))
    assert all((b["tokens"] < TOKENIZER.vocab_size).all() for b in evaluation_batches(made, 3))


def test_places_are_between_characters():
    assert byte_places("aé世🙂".encode() + b"\xff").tolist() == [0, 1, 3, 6, 10, 11]


def test_bad_input():
    with pytest.raises(UserError, match="Filling in needs"):
        FillIn(share=2.0)
