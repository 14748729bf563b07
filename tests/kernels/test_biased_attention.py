"""Attention with biases: the fast form equals the reference, in value and gradient, in every combination."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels.biased_attention import biased_attention, biased_attention_reference, diagonals


def arrays(B=2, L=5, M=9, H=3, K=4):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(B, n, H, K)).astype(np.float32) for n in (L, M, M))
    bias = rng.normal(size=(B, H, L, M)).astype(np.float32)
    seen = rng.random((B, L, M)) < 0.6
    seen[:, :, 0] = True
    return q, k, v, bias, seen


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("shared", [False, True], ids=["bias per row", "bias per key"])
def test_equals_the_reference(null, shared):
    q, k, v, bias, seen = arrays()
    if shared:
        bias, seen = bias[:, :1, :1], seen[:, :1]

    def loss(f):
        return lambda *args: jnp.sum(jnp.sin(f(*args, seen, null)))

    for fast, slow in zip(
        jax.value_and_grad(loss(biased_attention), (0, 1, 2, 3))(q, k, v, bias)[1],
        jax.value_and_grad(loss(biased_attention_reference), (0, 1, 2, 3))(q, k, v, bias)[1],
        strict=True,
    ):
        np.testing.assert_allclose(fast, slow, atol=2e-6)
    np.testing.assert_allclose(
        biased_attention(q, k, v, bias, seen, null), biased_attention_reference(q, k, v, bias, seen, null), atol=2e-6
    )


def test_softmax_1_attends_to_nothing_where_scores_are_low():
    q, k, v, bias, seen = arrays()
    for f in (biased_attention, biased_attention_reference):
        assert np.abs(f(q, k, v, bias - 60.0, seen, True)).max() < 1e-20
        assert np.abs(f(q, k, v, bias - 60.0, seen, False)).max() > 0.1


def test_softmax_1_is_the_formula():
    scores = np.array([[-1.0, 2.0, 0.5]], np.float32)
    v = np.eye(3, dtype=np.float32)[None, :, None]
    q, k, seen = np.zeros((1, 1, 1, 3)), np.zeros((1, 3, 1, 3)), np.ones((1, 1, 3), bool)
    p = biased_attention(q, k, v, scores[None, None], seen, True)
    np.testing.assert_allclose(p[0, 0, 0], np.exp(scores[0]) / (1 + np.exp(scores[0]).sum()), rtol=1e-6)


@pytest.mark.parametrize("L, M", [(1, 4), (5, 3), (6, 6)])
def test_diagonals(L, M):
    values = np.arange(2 * (L + M - 1)).reshape(2, -1)
    i, j = np.mgrid[:L, :M]
    np.testing.assert_array_equal(diagonals(jnp.asarray(values), L), values[:, j - i + L - 1])
