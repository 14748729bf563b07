"""Tokens that were held out of training are found in the weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab import runner
from lmlab.data.corpora import Files
from lmlab.data.foreign_tokenizer import TrainedOn
from lmlab.errors import UserError
from lmlab.evaluation.magikarp import UnderTrained, area_under_curve, indicators, repeated, suspects, unused_ids
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.text.bpe import BPE, train_bpe
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.optimizers import AdamW
from tests.training import tiny

HELD_OUT = "zebra quartz jacuzzi fuzzy kayak vortex".split()


def folder(path, words):
    """Documents of these words, some more common than others."""
    path.mkdir()
    rng = np.random.default_rng(0)
    p = 1 / np.arange(4, len(words) + 4)
    for i in range(60):
        (path / f"{i}.txt").write_text(" ".join(rng.choice(words, 80, p=p / p.sum())))
    return Files(str(path), 0.2, 0.2)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The metrics of a model that never saw words that its tokenizer was made for."""
    path = tmp_path_factory.mktemp("magikarp")
    common = sorted({w for w in ("chunk byte model reads writes learns where word starts ends the of and a in to for on "
                                 "with as at by from that this it is was are be have not or an but they which you").split()})
    seen, all_words = folder(path / "seen", common), folder(path / "all", HELD_OUT + common)
    run = dataclasses.replace(
        tiny.plain(path, evaluators=(UnderTrained(indicator="cosine", share=0.15),)),
        model=LanguageModel(340, transformer(1, 32, 64, n_heads=2)),
        corpus=seen,
        tokenizer=TrainedOn(BPE(340, 3.0), all_words),
        optimizer=AdamW(1e-2),
        steps=120,
    )
    monkey = pytest.MonkeyPatch()
    monkey.setenv("LMLAB_CACHE", str(path / "cache"))
    yield runner.run_arm(run, str(path / "run"), "magikarp")["metrics"]
    monkey.undo()


def test_held_out_tokens_are_found(result):
    """The words held out and their parts; single bytes that neither text has are not asked about."""
    assert 40 < result["untrained"] < result["candidates"] - 20 and result["candidates"] < 340 - 256
    assert result["chance"] == pytest.approx(100 * result["untrained"] / result["candidates"])
    assert result["auc/cosine"] > 0.97 and result["auc/cosine_centred"] > 0.97
    assert result["precision"] > 95 and result["recall"] > 95


def test_repetition_asks_for_the_token_behind_itself():
    tokenizer, model = train_bpe([b"the cat sat " * 9], 262), LanguageModel(262, transformer(1, 32, 64, n_heads=2))
    params, tokens = init(model, jax.random.key(0)), [116, 257, 10]
    found = repeated(model, params, tokenizer, tokens, rows=2, length=8)
    apply = jax.jit(model.apply)
    newline, quotes = tokenizer.encode(b"\n").tolist(), tokenizer.encode(b'" "').tolist()
    for token, value in zip(tokens, found, strict=True):
        lines = [[token], [token, *newline], [token, *quotes]]
        prompts = [[tokenizer.bos, *line * (7 // len(line))] for line in lines]
        padded = [prompt + [0] * (8 - len(prompt)) for prompt in prompts]
        logits = [apply(params, jnp.array([p])).logits[0, len(q) - 1] for p, q in zip(padded, prompts, strict=True)]
        assert value == pytest.approx(max(float(jax.nn.softmax(x)[token]) for x in logits), rel=1e-4)


def test_indicators_of_known_rows():
    """Rows 0 to 2 lie together, the others do not."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 16)) * 3
    rows[:3] = 0.3 + 0.01 * rng.normal(size=(3, 16))
    found = indicators({"embedding": rng.normal(size=(60, 16)), "head": rows.T}, [0, 1])
    for name in ("output_norm", "cosine", "cosine_centred", "cosine_principal"):
        assert set(np.argsort(found[name])[:3]) == {0, 1, 2}, name
    assert "input_norm" in found and "input_norm" not in indicators({"embedding": rows}, [0])
    moved = indicators({"embedding": rows + 5.0}, [0, 1])  # a common offset hides the others behind one direction
    assert set(np.argsort(moved["cosine_centred"])[:3]) == {0, 1, 2}


def test_area_under_the_curve():
    untrained = np.array([True, True, False, False])
    assert area_under_curve(np.array([1, 2, 3, 4]), untrained) == 1
    assert area_under_curve(np.array([4, 3, 2, 1]), untrained) == 0
    assert area_under_curve(np.array([1, 1, 1, 1]), untrained) == 0.5


def test_what_is_known_to_be_unused():
    tokenizer = train_bpe(["naïve été 漢字".encode() * 9], 262)
    ids = unused_ids(tokenizer)
    assert len(ids) == 14 and tokenizer.bos in ids and b"\xff" in {tokenizer.token_bytes(i) for i in ids}
    with pytest.raises(UserError, match="The indicator is one of"):
        UnderTrained(indicator="norm")


def test_a_model_without_such_tokens_is_refused():
    model = LanguageModel(256, transformer(1, 32, 64, n_heads=2))
    with pytest.raises(UserError, match="None of this model's tokens has more than a byte"):
        suspects(init(model, jax.random.key(0)), ByteTokenizer())
    with pytest.raises(UserError, match="this one has none"):
        suspects({"params": {"table": np.zeros((256, 4))}}, ByteTokenizer())
