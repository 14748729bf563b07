"""Gaps are filled exactly by what knows the text, and not by what does not."""

import types

import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.infilling import FillIn
from lmlab.errors import UserError
from lmlab.evaluation import bits_per_byte, infilling
from lmlab.evaluation.infilling import Infilling
from lmlab.evaluation.scoring import Scores
from lmlab.text.bpe import BPE
from lmlab.text.infill import AtCharacters, AtLines
from tests.training import tiny


@pytest.mark.parametrize("kind", [AtLines(), AtCharacters()], ids=["lines", "characters"])
def test_what_is_written_right_fills_the_gap(kind, tmp_path, monkeypatch):
    made = tiny.corpus(tmp_path)
    data = bits_per_byte.Data(bake(made, BPE(290), str(tmp_path / "cache")), 40, 4, FillIn(kind))
    evaluator, tokenizer = Infilling(gaps=10, excerpt=60, new=50, rows=4), data.baked.tokenizer
    with pytest.raises(UserError, match="whose corruption is FillIn"):
        evaluator.check(tiny.plain(tmp_path))
    evaluator.check(types.SimpleNamespace(corruption=FillIn(kind)))
    gaps = evaluator._gaps(data)
    assert gaps == evaluator._gaps(data) and len(gaps) > 5 and all(0 < len(middle) <= 40 for _, middle, _ in gaps)
    answers = {}
    for gap in gaps:
        read, write = kind.shown(*gap)
        answers[tuple([tokenizer.bos, *infilling.ids_of(tokenizer, *read)])] = tokenizer.encode(write)

    def generate(model, params, prompts, new, eos, temperature):
        rows = np.full((len(prompts), new), eos)
        for row, prompt in zip(rows, prompts):
            answer = answers[tuple(prompt.tolist())][:new] if model else []
            row[: len(answer)] = answer
        return rows

    def score(model, params, batch):
        return Scores(batch["weights"].astype(np.float32), batch["targets"], ())  # a nat a token

    monkeypatch.setattr(infilling, "generate", generate)
    monkeypatch.setattr(bits_per_byte, "score", score)
    right, wrong = (evaluator(knows, None, data) for knows in (True, False))
    assert right["filled"] == 100 and right["unfit"] == 0 and wrong["filled"] == 0
    assert wrong["unfit"] == (100 if isinstance(kind, AtLines) else 0)
    nats = sum(len(tokenizer.encode(kind.shown(*gap)[1])) + 1 for gap in gaps)
    assert right["middle_bpb"] == pytest.approx(nats / np.log(2) / sum(len(middle) for _, middle, _ in gaps))
