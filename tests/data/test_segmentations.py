"""Windows cut by chance: no byte lost or counted twice, and a batch is a pure function of seed and step."""

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.batches import TrainBatches, Windows, evaluation_batches
from lmlab.data.segmentations import BPEDropout, StochasTok
from lmlab.errors import UserError
from lmlab.text.bpe import BPE

DOCUMENTS = ["naïve café 世界 🙂".encode(), b"x", b"the end of the line, the end of the text " * 9, b"\xfe\xff raw lines"]
BOTH = [StochasTok(0.3), BPEDropout(0.3), StochasTok(0.0), StochasTok(3.0), BPEDropout(0.5, 1.1)]
TOKENIZER = BPE(272).train(DOCUMENTS)
STREAM = stream_of(DOCUMENTS, TOKENIZER)


@pytest.mark.parametrize("corruption", [*BOTH, StochasTok()], ids=str)
def test_a_row_has_just_the_room_for_its_tokens(corruption):
    for tokens in range(1, 300):
        length = corruption.positions(tokens)
        assert corruption.text_tokens(length) == tokens and length >= tokens
        assert corruption.text_tokens(length - 1) == tokens - 1 or tokens == 1


@pytest.mark.parametrize("corruption", BOTH, ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 40, 1000])
def test_every_byte_is_covered_once_and_what_is_read_is_what_was_written(corruption, tokens):
    length = corruption.positions(tokens)
    made, plain = corruption.windows(STREAM, length, TOKENIZER), Windows(STREAM, tokens, TOKENIZER)
    assert len(made) == len(plain)
    covered, longer = b"", 0
    for i in range(len(made)):
        batch, own = made.batch([i, -1], [(0, i), (0, i)]), plain.batch([i])
        assert {n: a.shape[1:] for n, a in batch.items()} == corruption.shapes(length)
        assert not batch["segment_ids"][1].any() and not batch["weights"][1].any()
        for name in ("target_bytes", "weights"):
            assert batch["target_bytes"].sum() == own["target_bytes"].sum()
        row = {name: array[0] for name, array in batch.items()}
        text = row["target_bytes"] > 0
        assert TOKENIZER.decode(row["targets"][text]) == TOKENIZER.decode(own["targets"][own["target_bytes"] > 0])
        covered += TOKENIZER.decode(row["targets"][text])
        longer += int((row["weights"] > 0).sum() - (own["weights"] > 0).sum())
        # The next input is the target, where that is of the same document.
        same = (row["weights"][:-1] > 0) & (row["segment_ids"][1:] > 0)
        np.testing.assert_array_equal(row["tokens"][1:][same], row["targets"][:-1][same])
        assert (row["segment_ids"][1:][same] == row["segment_ids"][:-1][same]).all()
        assert row["tokens"][0] == own["tokens"][0, 0]
        starts = np.flatnonzero(row["tokens"] == TOKENIZER.bos)
        assert len(starts) == (own["tokens"] == TOKENIZER.bos).sum()
        assert (row["segment_ids"][starts[starts > 0]] == row["segment_ids"][starts[starts > 0] - 1] + 1).all()
    assert covered == b"".join(DOCUMENTS)
    if tokens == 40 and corruption in BOTH[:2]:
        assert longer > 5


@pytest.mark.parametrize("corruption", BOTH[:2], ids=str)
def test_a_batch_is_a_pure_function_of_seed_and_step(corruption):
    made = corruption.windows(STREAM, corruption.positions(20), TOKENIZER)
    whole, part = TrainBatches(made, 4, 0), TrainBatches(made, 4, 0, [2, 3])
    for step in (3, 0, 7, 3):
        for name, array in part.batch(step).items():
            np.testing.assert_array_equal(array, whole.batch(step)[name][2:])
    rows = {row.tobytes() for step in range(40) for row in whole.batch(step)["tokens"]}
    assert len(rows) > 3 * len(made)
    other = TrainBatches(made, 4, 1)
    assert any((whole.batch(s)["tokens"] != other.batch(s)["tokens"]).any() for s in range(3))


@pytest.mark.parametrize("corruption", BOTH[:2], ids=str)
def test_evaluation_reads_the_tokenizer_s_own_unless_it_asks(corruption):
    length = corruption.positions(20)
    made, plain = corruption.windows(STREAM, length, TOKENIZER), Windows(STREAM, 20, TOKENIZER)
    for batch, own in zip(evaluation_batches(made, 3), evaluation_batches(plain, 3), strict=True):
        for name, array in own.items():
            np.testing.assert_array_equal(batch[name][:, :20], array)
            assert not batch[name][:, 20:].any()
    always = corruption.always(STREAM, length, TOKENIZER)
    once, again = ([b["tokens"].tobytes() for b in evaluation_batches(always, 3)] for _ in range(2))
    assert once == again != [b["tokens"].tobytes() for b in evaluation_batches(made, 3)]


@pytest.mark.parametrize("wrong", [(StochasTok, -0.1), (BPEDropout, 1.5), (BPEDropout, 0.1, 0.9)], ids=str)
def test_bad_input(wrong):
    kind, *values = wrong
    with pytest.raises(UserError):
        kind(*values)
