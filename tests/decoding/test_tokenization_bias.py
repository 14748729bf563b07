"""Phan et al.'s Markov chain: tokens lie about the next symbol, the correction does not, exactly."""

import itertools

import numpy as np
import pytest

from lmlab.data.markov import RandomChain, SwitchingChain
from lmlab.decoding.tokenization_bias import (
    greedy_law, next_symbol, next_symbol_naive, starts_with, starts_with_by_covers,
)
from lmlab.text.dictionary import Dictionary

SYMBOLS = [b"0", b"1"]


@pytest.fixture(scope="module", params=[RandomChain(order=2, size=2000, draw=3), SwitchingChain(order=1, size=2000)])
def setting(request):
    """(chain, greedy tokenizer, the exact law of its tokens)."""
    chain = request.param
    tokenizer = Dictionary(8, encoded="greedy").train(d.data for d in chain.documents())
    assert len(tokenizer.tokens) == 8 and max(map(len, tokenizer.tokens)) >= 3
    return chain, tokenizer, greedy_law(tokenizer, chain.log_probability, SYMBOLS)


def texts(longest):
    return [bytes(t) for n in range(1, longest + 1) for t in itertools.product(b"01", repeat=n)]


def test_a_text_starts_as_often_as_the_chain_says(setting):
    chain, tokenizer, law = setting
    for text in texts(5):
        truth = np.exp(chain.log_probability(text))
        assert starts_with(law, tokenizer, text) == pytest.approx(truth, abs=1e-12)
        assert starts_with_by_covers(law, tokenizer, text) == pytest.approx(truth, abs=1e-12)


def test_transitions_are_recovered_where_tokens_give_others(setting):
    chain, tokenizer, law = setting
    naive_errors = []
    for text in texts(4):
        truth = chain.following(text)
        assert next_symbol(law, tokenizer, text, SYMBOLS) == pytest.approx(truth, abs=1e-12)
        naive_errors.append(np.abs(next_symbol_naive(law, tokenizer, text, SYMBOLS) - truth).max())
    assert max(naive_errors) > 0.15


def test_laws_of_tokens_are_laws(setting):
    _, tokenizer, law = setting
    p_LV = law(tokenizer.encode(b"0110100"))
    assert p_LV.min() >= 0 and p_LV.sum(axis=1) == pytest.approx(np.ones(len(p_LV)))
