"""Shares of a tokenizer's training text, from its merges."""

import numpy as np
import pytest

from lmlab.errors import UserError
from experiments.mixture_inference import MixtureInference
from lmlab.data.categories import Categories
from lmlab.evaluation.mixture_inference import guesses, infer_mixture, log_mean_squared_error, take
from lmlab.text.bpe import train_bpe
from lmlab.text.merges import count_words


def documents(letters, seed, count=150):
    """Words of a made-up language: its letters, some of them more common than others."""
    rng = np.random.default_rng(seed)
    p = np.arange(len(letters), 0, -1) / np.arange(len(letters) + 1).sum()
    return [" ".join("".join(rng.choice(list(letters), 4, p=p)) for _ in range(60)).encode() for _ in range(count)]


LANGUAGES = ("abcdef", "cdefgh", "uvwxyz")


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.0, 0.5, 0.5)])
def test_known_shares_are_recovered(shares):
    mixed = [d for i, (l, s) in enumerate(zip(LANGUAGES, shares)) for d in take(documents(l, i), int(s * 40_000))]
    held_out = [count_words(documents(l, 10 + i)) for i, l in enumerate(LANGUAGES)]
    found = infer_mixture(train_bpe(mixed, 258 + 80).merges, held_out)
    assert found.min() >= 0 and found.sum() == pytest.approx(1)
    assert np.abs(found - shares).max() < 0.03


def test_the_very_text_that_was_trained_on_leaves_no_other_answer():
    """With the counts themselves in place of a sample's, the truth satisfies every constraint."""
    texts = [take(documents(l, i), size) for i, (l, size) in enumerate(zip(LANGUAGES, (30_000, 15_000, 5_000)))]
    found = infer_mixture(train_bpe(sum(texts, []), 258 + 80).merges, [count_words(t) for t in texts])
    assert np.abs(found - [0.6, 0.3, 0.1]).max() < 0.01


def test_guesses_are_those_of_the_paper():
    """Mean log10 errors against random mixtures of five, as the authors' notebook prints them: -1.39 and -1.67."""
    random, uniform = guesses(5, np.random.default_rng(0))
    assert random == pytest.approx(-1.39, abs=0.04) and uniform == pytest.approx(-1.67, abs=0.04)
    assert log_mean_squared_error([0.5, 0.5], [0.4, 0.6]) == pytest.approx(-2)


def test_nothing_to_infer_from_is_refused():
    with pytest.raises(UserError, match="at least two categories"):
        infer_mixture([(b"a", b"b")], [count_words([b"ab"])])
    with pytest.raises(UserError, match="7 bytes too few"):
        take([b"abc"], 10)


def test_a_short_text_gives_as_many_merges_as_it_has(tmp_path):
    for name, text in (("english", "the cat sat on the mat and the dog sat too\n"), ("german", "die Katze lag auf der Matte\n")):
        (tmp_path / f"x.{name}.txt").write_text(text * 60)
    metrics = MixtureInference(Categories(str(tmp_path), cut=100), merges=500, trials=1).measure()
    assert 20 < metrics["merges"] < 500 and np.isfinite(metrics["log_mse"])
