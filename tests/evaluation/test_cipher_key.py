"""A key is read off states that hold it, and only off those."""

import dataclasses

import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.errors import UserError
from lmlab.evaluation import cipher_key
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.cipher import cipher, excerpts
from lmlab.evaluation.cipher_key import CipherKey, by_frequency, votes_right
from lmlab.runner import run_arm
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.loop import train
from tests.training import tiny

ASKED = CipherKey("validation", 2000, 4000, window=40, steps=300, batch_size=128, hidden=32)


def test_the_majority_of_a_window_counts():
    symbols = np.array([7, 7, 7, 9, 9, 5])
    plain = np.array([1, 1, 1, 2, 2, 3])
    assert votes_right(symbols, plain, plain) == (3, 3)
    assert votes_right(symbols, plain, np.array([1, 4, 1, 2, 2, 3])) == (3, 3)
    assert votes_right(symbols, plain, np.array([4, 4, 1, 2, 8, 1])) == (3, 1)


def test_frequencies_are_paired_by_rank():
    frequent = np.roll(np.arange(256), -5)
    assert by_frequency(np.array([8, 1, 8, 8, 1, 3]), frequent).tolist() == [5, 6, 5, 5, 6, 7]


@pytest.mark.parametrize("told", ["all", "symbols", "late"])
def test_what_the_states_hold_is_read_off(told, tmp_path, monkeypatch):
    """States that are the plain byte; that are the symbol alone, which says nothing under another key; and that are the plain
    byte from the middle on."""
    baked, data_length = bake(tiny.corpus(tmp_path), ByteTokenizer(), str(tmp_path / "cache")), 128
    of = {}
    for split in ("train", "validation"):
        for text in excerpts(list(baked.documents(split)), data_length - 1, 4000, ASKED.seed):
            of[cipher(text, ASKED.seed)] = text
    asked = dataclasses.replace(ASKED, max_bytes=4000, steps=1500)

    def states(self, model, params, data, texts):
        plain = [np.frombuffer(of[text] if told != "symbols" else text, np.uint8) for text in texts]
        found = [np.eye(256, dtype=np.float32)[row] for row in plain]
        for row in found if told == "late" else ():
            row[: len(row) // 2] = 0
        return found

    monkeypatch.setattr(CipherKey, "_states", states)
    found = asked(None, None, Data(baked, data_length, 4))
    assert found.keys() == {"key", "key/first", "key/by_frequency", "key_bytes"}
    if told == "all":
        assert found["key"] > 95 and found["key/first"] > 95 and found["key_bytes"] > 95
    elif told == "late":
        assert found["key"] > 95 and found["key/first"] < 40
    else:
        assert found["key"] < 40


def test_a_run_asks_for_it(tmp_path, monkeypatch):
    """The states are those of the model behind the bytes: a trained probe beats the commonest byte."""
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    run = dataclasses.replace(tiny.plain(tmp_path), evaluators=(dataclasses.replace(ASKED, window=10),))
    metrics = run_arm(run, str(tmp_path / "run"), "plain")["metrics"]
    assert 0 <= metrics["key"] <= 100 and metrics["key_bytes"] > 0


def test_states_are_of_the_bytes_that_were_read(tmp_path, monkeypatch):
    """One position each, in order, whatever the batch."""
    baked = bake(tiny.corpus(tmp_path), ByteTokenizer(), str(tmp_path / "cache"))

    def read(model, mesh, params, batch):
        return np.repeat(np.asarray(batch["tokens"])[..., None], 2, axis=-1).astype(np.float32)

    monkeypatch.setattr(cipher_key, "_states", read)
    monkeypatch.setattr(cipher_key, "on_host", np.asarray)
    monkeypatch.setattr(cipher_key, "mesh_of", lambda params: None)
    texts = [b"abc", b"defgh", b"i"]
    found = ASKED._states(None, None, Data(baked, 8, 2), texts)
    assert [bytes(rows[:, 0].astype(np.uint8)) for rows in found] == texts


def test_short_rows_and_bad_values_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    run = dataclasses.replace(tiny.plain(tmp_path), evaluators=(CipherKey("validation"),))
    with pytest.raises(UserError, match="do not hold two windows"):
        train(run, str(tmp_path / "run"))
    with pytest.raises(UserError, match="of 1 or more"):
        CipherKey(window=0)
