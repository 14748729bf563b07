"""A counter is a distribution over bytes, knows no names of bytes, and learns from the text alone."""

import collections

import numpy as np
import pytest

from lmlab.evaluation.cipher import cipher, excerpts
from lmlab.evaluation.counter import counted_nats

TEXT = b"the cat sat on the mat, the rat sat on the cat; " * 4


def dense(text, t, order):
    """p of every byte value at t, written out."""
    p = np.full(254, 1 / 254)
    for k in range(min(order, t) + 1):
        context = text[t - k : t]
        behind = collections.Counter(text[i] for i in range(k, t) if text[i - k : i] == context)
        if behind:
            counts = np.bincount(list(behind), list(behind.values()), 254)
            p = (counts + len(behind) * p) / (counts.sum() + len(behind))
    return p


@pytest.mark.parametrize("order", [0, 2])
def test_nats_are_those_of_a_distribution(order):
    nats = counted_nats(TEXT, order)
    for t in range(0, len(TEXT), 7):
        p = dense(TEXT, t, order)
        assert p.sum() == pytest.approx(1)
        assert nats[t] == pytest.approx(-np.log(p[TEXT[t]]))
    assert nats[0] == pytest.approx(np.log(254))
    assert nats[96:].mean() < 0.75 * nats[:48].mean()


def test_a_cipher_changes_nothing():
    np.testing.assert_array_equal(counted_nats(cipher(TEXT)), counted_nats(TEXT))


def test_excerpts_are_of_all_documents_and_as_many_bytes_as_asked_for():
    documents = [bytes([65 + i]) * n for i, n in enumerate((5, 300, 400))]
    found = excerpts(documents, 100, 1000, 0)
    assert sum(map(len, found)) == 1000 and max(map(len, found)) == 100
    assert {text[:1] for text in found} == {b"A", b"B", b"C"}
    assert found == excerpts(documents, 100, 1000, 0) != excerpts(documents, 100, 1000, 1)
