import collections
import math

import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.masked_words import MaskedWords
from lmlab.evaluation.hidden_frequencies import HiddenFrequencies, runs_of
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from tests.training import tiny


def test_runs_and_places():
    hidden = np.array([[0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 1, 1]], bool)
    sizes, places = runs_of(hidden)
    assert sizes.tolist() == [[0, 2, 2, 0, 1], [5] * 5, [0] * 5, [1, 0, 0, 2, 2]]
    assert places.tolist() == [[0, 0, 1, 0, 0], [0, 1, 2, 3, 4], [0] * 5, [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("recipe", [ByteTokenizer(), BPE(300, 1.5)], ids=["bytes", "bpe"])
@pytest.mark.parametrize("rows", [10**6, 5])
def test_equals_counting_by_hand(tmp_path, monkeypatch, recipe, rows):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    corpus = tiny.corpus(tmp_path)
    baked = bake(corpus, recipe)

    def asked(split, rows):
        """[(size of the run, place, target)], bytes."""
        found, covered = [], 0
        windows = MaskedWords().windows(baked.split(split), 32, baked.tokenizer)
        for row in range(min(rows, len(windows))):
            batch = windows.batch([row * len(windows) // min(rows, len(windows))])
            tokens, weights = batch["tokens"][0].tolist(), batch["weights"][0]
            at = 0
            while at < 32:
                end = at
                while end < 32 and weights[end]:
                    end += 1
                found += [(min(31, end - at), min(15, i - at), int(batch["targets"][0, i])) for i in range(at, end)]
                at = max(end, at + 1)
            covered += int(batch["target_bytes"].sum())
        return found, covered

    train, (test, covered) = asked("train", rows)[0], asked("test", 10**6)
    alone, V = collections.Counter(target for *_, target in train), baked.tokenizer.vocab_size
    at = collections.Counter((size, place) for size, place, _ in train)
    together = collections.Counter(train)
    bits = 0.0
    for size, place, target in test:
        p = (alone[target] + 0.5) / (len(train) + 0.5 * V)
        p = (together[size, place, target] + 20 * p) / (at[size, place] + 20)
        bits -= math.log2(p)
    found = HiddenFrequencies(corpus, tokenizer=recipe, length=32, rows=rows).measure()
    assert found["bpb"] == pytest.approx(bits / covered)
