"""Models of chains: losses beside the entropies, transitions from a model's own law, and figures of both."""

import jax
import numpy as np
import pytest

from experiments import theory_tokenization, tokenization_bias
from lmlab.data.bake import bake
from lmlab.data.markov import SYMBOLS, SwitchingChain
from lmlab.decoding.tokenization_bias import greedy_law
from lmlab.evaluation import bits_per_byte, chains
from lmlab.evaluation.chains import AgainstChain, Transitions, model_law, token_unigram_nats, transition_errors
from lmlab.evaluation.scoring import Scores
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.text.dictionary import Dictionary

CHAIN = SwitchingChain(2, 30, 1000)


def test_a_model_without_a_context_is_where_the_unigram_entropy_is(tmp_path, monkeypatch):
    """One that knows the frequencies and nothing else has closed nothing, and the ends of documents do not count."""
    data = bits_per_byte.Data(bake(CHAIN, Dictionary(0), str(tmp_path)), 64, 4)

    def score(model, params, batch):
        nats = np.where(batch["target_bytes"] > 0, np.log(2), 100.0) * batch["weights"]
        return Scores(nats.astype(np.float32), batch["targets"], ())

    monkeypatch.setattr(bits_per_byte, "score", score)
    found = AgainstChain(CHAIN)(None, None, data)
    assert found["nats"] == pytest.approx(np.log(2), abs=1e-6) and found["closed"] == pytest.approx(0, abs=1e-3)


def test_tokens_without_a_context_do_better_the_more_they_are():
    documents = [d.data for d in CHAIN.documents()]
    nats = [token_unigram_nats(Dictionary(n).train(documents), documents, documents) for n in (0, 10, 40)]
    assert nats[0] == pytest.approx(np.log(2), abs=2e-3) and nats[0] > nats[1] + 0.05 and nats[1] > nats[2]
    assert nats[2] > CHAIN.entropy_rate()


def test_the_law_of_a_model_is_its_softmax():
    model = LanguageModel(12, transformer(1, 32, 64, n_heads=2))
    params = init(model, jax.random.key(0))
    p_LV = model_law(model, params, 8)(np.array([3, 1, 4]), 10)
    logits = model.apply(params, np.array([[10, 3, 1, 4]])).logits[0]
    assert p_LV == pytest.approx(np.asarray(jax.nn.softmax(logits)), abs=1e-6)


def test_errors_of_known_probabilities():
    found = transition_errors(np.array([0.5, 0.2, 0.005]), np.array([0.0, 0.3, 0.0]), np.array([0.5, 0.2, 0.105]))
    assert found["naive"] == pytest.approx(0.605 / 3) and found["naive_worst"] == 0.5
    assert found["corrected_worst"] == pytest.approx(0.1) and found["sure"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("encoded", ["greedy", "merges"])
def test_a_trained_models_transitions_are_asked_for(encoded, tmp_path):
    """A fresh model has no idea, corrected or not; both are asked behind every text."""
    recipe = Dictionary(6, encoded=encoded)
    data = bits_per_byte.Data(bake(CHAIN, recipe, str(tmp_path)), 64, 4)
    model = LanguageModel(recipe.vocab_size, transformer(1, 32, 64, n_heads=2))
    found = Transitions(CHAIN, 3)(model, init(model, jax.random.key(0)), data)
    assert 0 < found["corrected"] <= found["corrected_worst"] < 1


def test_a_model_that_knows_the_tokens_law_is_right_once_corrected_and_wrong_as_prompted(tmp_path, monkeypatch):
    recipe = Dictionary(6, encoded="greedy")
    data = bits_per_byte.Data(bake(CHAIN, recipe, str(tmp_path)), 64, 4)
    symbols = [SYMBOLS[i : i + 1] for i in range(CHAIN.tables()[0].shape[1])]
    law = greedy_law(data.baked.tokenizer, CHAIN.log_probability, symbols)
    monkeypatch.setattr(chains, "model_law", lambda *_: lambda ids, bos: law(ids))
    found = Transitions(CHAIN, 4)(None, None, data)
    assert found["corrected_worst"] < 1e-9 and found["naive_worst"] > 0.1


def test_figures_are_drawn(tmp_path):
    from lmlab.report.figures import draw_transitions

    exact = tokenization_bias.ExactTransitions(tokenization_bias.CHAIN, length=3)
    draw_transitions(tmp_path / "t.png", *exact.transitions(), "T")
    run = tmp_path / "characters" / "seed0"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"kind": "evaluation", "step": 10, "bpb": 1.0}\n{"kind": "train", "step": 10}\n')
    theory_tokenization.draw(tmp_path, tmp_path / "l.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("t.png", "l.png"))
