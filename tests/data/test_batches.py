import itertools
import threading

import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.batches import TrainBatches, Windows, evaluation_batches
from lmlab.text import ByteTokenizer, train_bpe

TEXT = "naïve 漢字 bytes, привет and more bytes; "
CORPORA = {
    "mixed": [TEXT.encode() * 9, b"", b"a", "é".encode(), b"\xfe\xff\xfe raw", TEXT.encode()[:5], b"z" * 40],
    "one_tiny": [b"x"],
    "one_empty": [b""],
    "none": [],
}
TOKENIZERS = {"bytes": ByteTokenizer(), "bpe": train_bpe([TEXT.encode() * 20], 270)}


@pytest.mark.parametrize("length", [1, 3, 16, 4096])
@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_every_token_but_bos_is_scored_once_and_covers_its_bytes(tokenizer, corpus, length):
    documents = CORPORA[corpus]
    windows = Windows(stream_of(documents, tokenizer), length, tokenizer)
    batches = list(evaluation_batches(windows, 4))
    assert {b["tokens"].shape for b in batches} == {(4, length)}
    assert sum(int(b["target_bytes"].sum()) for b in batches) == sum(map(len, documents))
    scored = np.concatenate([b["targets"][b["weights"] > 0] for b in batches])
    expected = [np.append(tokenizer.encode(d), tokenizer.eos) for d in documents]
    assert np.array_equal(scored, np.concatenate([np.zeros(0, int), *expected]))


@pytest.mark.parametrize("length", [1, 3, 16, 4096])
def test_a_window_is_what_its_definition_says(length):
    tokenizer = TOKENIZERS["bpe"]
    stream = stream_of(CORPORA["mixed"], tokenizer)
    windows, n = Windows(stream, length, tokenizer), len(stream.tokens)
    batch = windows.batch(np.arange(len(windows)))
    document = np.searchsorted(stream.starts, np.arange(n), side="right")
    for row, column in np.ndindex(batch["tokens"].shape):
        at = row * length + column
        got = {key: value[row, column] for key, value in batch.items()}
        if at >= n:
            assert not any(got.values())
            continue
        assert got["tokens"] == stream.tokens[at]
        assert got["segment_ids"] == document[at] - document[row * length] + 1
        scored = at + 1 < n and document[at + 1] == document[at]
        assert got["weights"] == scored
        if scored:
            assert got["targets"] == stream.tokens[at + 1]
            assert got["target_bytes"] == tokenizer.token_lengths()[stream.tokens[at + 1]]
    assert {key: value.dtype.name for key, value in batch.items()} == dict.fromkeys(
        ("tokens", "targets", "segment_ids", "target_bytes"), "int32"
    ) | {"weights": "float32"}


def test_the_end_of_a_document_has_weight_but_no_bytes_and_raw_eos_bytes_count():
    tokenizer = ByteTokenizer()
    batch = Windows(stream_of([b"\xff", b"b"], tokenizer), 8, tokenizer).batch([0])
    assert batch["tokens"].tolist() == [[254, 255, 255, 254, 98, 255, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 2, 2, 2, 0, 0]]
    assert batch["weights"].tolist() == [[1, 1, 0, 1, 1, 0, 0, 0]]
    assert batch["target_bytes"].tolist() == [[1, 0, 0, 1, 0, 0, 0, 0]]


def train_windows(count=37, length=8):
    tokenizer = ByteTokenizer()
    data = np.random.default_rng(0).integers(0, 128, count * length - 1, dtype=np.uint8).tobytes()
    windows = Windows(stream_of([data], tokenizer), length, tokenizer)
    assert len(windows) == count
    return windows


def rows_of(batches, steps):
    return [row.tobytes() for step in steps for row in batches.batch(step)["tokens"]]


def test_an_epoch_holds_every_window_once_in_an_order_of_its_own():
    windows = train_windows()
    rows = rows_of(TrainBatches(windows, 4, seed=5), range(37))
    epochs = [rows[i : i + 37] for i in range(0, 148, 37)]
    every = sorted(row.tobytes() for row in windows.batch(np.arange(37))["tokens"])
    assert all(sorted(epoch) == every for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert rows_of(TrainBatches(windows, 4, seed=6), range(37)) != rows


def test_a_batch_is_a_function_of_seed_and_step():
    windows = train_windows()
    forward = [rows_of(TrainBatches(windows, 4, seed=5), [step]) for step in range(30)]
    batches = TrainBatches(windows, 4, seed=5)
    assert [rows_of(batches, [step]) for step in reversed(range(30))] == forward[::-1]
    assert len(rows_of(batches, [10**9])) == 4


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_the_number_of_hosts_changes_nothing(hosts):
    windows = train_windows()
    alone = TrainBatches(windows, 8, seed=3)
    shared = [TrainBatches(windows, 8, 3, rows) for rows in np.arange(8).reshape(hosts, -1)]
    for step in range(12):
        parts = [host.batch(step) for host in shared]
        for key, value in alone.batch(step).items():
            assert np.array_equal(np.concatenate([part[key] for part in parts]), value)


def test_iterate_resumes_anywhere_and_leaves_no_thread():
    batches = TrainBatches(train_windows(), 4, seed=1)
    before = threading.active_count()
    for start in (0, 7):
        ahead = batches.iterate(start)
        for step, batch in zip(itertools.count(start), itertools.islice(ahead, 5), strict=False):
            assert np.array_equal(batch["tokens"], batches.batch(step)["tokens"])
        ahead.close()
    assert threading.active_count() == before


def test_iterate_passes_errors_on():
    batches = TrainBatches(train_windows(), 4, seed=1)
    batches.windows.stream = None
    with pytest.raises(AttributeError):
        next(batches.iterate(0))
