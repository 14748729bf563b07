"""Chains whose text has the statistics that are claimed of it."""

import itertools

import numpy as np
import pytest

from lmlab.data.markov import RandomChain, SwitchingChain
from lmlab.errors import UserError

CHAINS = [SwitchingChain(2, 20, 5000), SwitchingChain(1, 20, 5000, p=0.3, q=0.9), RandomChain(3, 20, 5000, symbols=3)]


@pytest.mark.parametrize("chain", CHAINS)
def test_transitions_are_those_of_the_text(chain):
    P, pi = chain.tables()
    S, k = P.shape[1], chain.order
    counts = np.zeros((len(P), S))
    for document in chain.documents():
        digits = np.frombuffer(document.data, np.uint8) - 48
        assert len(digits) == chain.size
        states = sum(digits[i : len(digits) - k + i].astype(int) * S ** (k - 1 - i) for i in range(k))
        np.add.at(counts, (states, digits[k:]), 1)
    seen = counts.sum(axis=1) > 500
    assert np.abs(counts[seen] / counts[seen].sum(axis=1, keepdims=True) - P[seen]).max() < 0.05
    assert np.abs(counts.sum(axis=1) / counts.sum() - pi).max() < 0.02
    assert pi.sum() == pytest.approx(1)


def test_the_entropies_of_the_paper():
    """Order-k switching chains with p = q = 0.8: H(0.8) = 0.500 and ln 2 = 0.693 nats (arXiv 2404.08335)."""
    for order in (1, 2, 4):
        chain = SwitchingChain(order)
        assert chain.entropy_rate() == pytest.approx(0.5004, abs=1e-4)
        assert chain.unigram_entropy() == pytest.approx(np.log(2))


@pytest.mark.parametrize("chain", CHAINS)
def test_probabilities_of_texts_sum_to_one(chain):
    symbols = b"012"[: chain.tables()[0].shape[1]]
    for n in (1, 2, 4):
        p = [np.exp(chain.log_probability(bytes(t))) for t in itertools.product(symbols, repeat=n)]
        assert sum(p) == pytest.approx(1)
    assert chain.following(b"01").sum() == pytest.approx(1)


def test_the_text_is_a_function_of_the_chain():
    first, again = (list(SwitchingChain(2, 20, 50).documents()) for _ in range(2))
    assert first == again and {d.split for d in first} == {"train", "validation", "test"}
    assert SwitchingChain(2).fingerprint() != SwitchingChain(2, p=0.7).fingerprint()
    with pytest.raises(UserError, match="order of at least 1"):
        SwitchingChain(0)
