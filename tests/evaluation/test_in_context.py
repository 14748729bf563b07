"""Questions can be answered from their own text, and only from it."""

import dataclasses

import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.synthetic import Brackets
from lmlab.errors import UserError
from lmlab.evaluation import bits_per_byte
from lmlab.evaluation.cipher import Cipher
from lmlab.evaluation.in_context import InContext, look_up, permuted
from lmlab.evaluation.scoring import Scores
from lmlab.runner import run_arm
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.digits import DigitGroups
from lmlab.training.loop import train
from tests.training import tiny


def reader(text, at):
    """What stands at `at`, for who reads what is before."""
    lines = bytes(text[:at]).split(b"\n")
    examples, (asked, _, written) = [line.split(b":") for line in lines[:-1]], lines[-1].partition(b":")
    if len(asked) == 1:
        return dict(examples)[asked][0]
    source, target = examples[0]
    order = [source.index(letter) for letter in target]
    assert all(bytes(s[i] for i in order) == t for s, t in examples)
    return asked[order[len(written)]]


def test_answers_follow_from_the_text_before():
    rng = np.random.default_rng(0)
    for _ in range(200):
        for prompt, answer in (look_up(rng, 5), permuted(rng, 4, 3)):
            for i in range(len(answer)):
                assert reader(prompt + answer, len(prompt) + i) == answer[i]
            if len(answer) > 1:
                assert answer != prompt.split(b"\n")[-1][:-1]


@pytest.mark.parametrize("knows", [True, False])
def test_accuracy(knows, tmp_path, monkeypatch):
    """A model that reads is right; one that writes the first letter behind a colon is right as often as it was asked."""
    baked = bake(Brackets(10, 20), ByteTokenizer(), str(tmp_path))
    asked, length = [], 5 * 4 + 3 + 1

    def score(model, params, batch):
        best = np.zeros_like(batch["targets"])
        for row, targets in enumerate(batch["targets"]):
            text = bytes(targets[batch["weights"][row] > 0][:-1].astype(np.uint8))
            for at in range(text.rfind(b":") + 1, len(text)) if text else ():
                best[row, at] = reader(text, at) if knows else text[2]
            if len(text) + 1 == length:
                asked.append(text[-1] == text[2])
        return Scores(np.zeros(best.shape, np.float32), best, ())

    monkeypatch.setattr(bits_per_byte, "score", score)
    found = InContext(60, 5, 4)(None, None, bits_per_byte.Data(baked, 16, 8))
    assert len(asked) == 60 and 0 < sum(asked) < 30
    assert found == ({"look_up": 100.0, "permuted": 100.0} if knows else {"look_up": 100 * sum(asked) / 60, "permuted": 0.0})


def test_a_run_asks_them_beside_its_text(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    run = dataclasses.replace(tiny.plain(tmp_path), evaluators=(InContext(4), Cipher("validation", 500)))
    metrics = run_arm(run, str(tmp_path / "run"), "plain")["metrics"]
    assert {"look_up", "permuted", "plain_bpb", "cipher_bpb"} <= metrics.keys()


@pytest.mark.parametrize("evaluator", [InContext(), Cipher()])
def test_models_of_other_tokens_are_refused_before_they_are_trained(evaluator, tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    plain, tokenizer = tiny.plain(tmp_path), DigitGroups("left")
    model = plain.model.clone(vocab_size=tokenizer.vocab_size)
    run = dataclasses.replace(plain, model=model, tokenizer=tokenizer, evaluators=(evaluator,))
    with pytest.raises(UserError, match="read bytes"):
        train(run, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_bad_values():
    for bad in ({"count": 0}, {"pairs": 27}, {"shots": 0}):
        with pytest.raises(UserError, match="Questions need"):
            InContext(**bad)
