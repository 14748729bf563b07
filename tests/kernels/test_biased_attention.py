"""Attention with biases: the fast form equals the reference, in value and gradient, in every combination."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels import biased_attention as module
from lmlab.kernels.biased_attention import biased_attention, biased_attention_reference, diagonals


def arrays(B=2, L=5, M=9, H=3, K=4):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(B, n, H, K)).astype(np.float32) for n in (L, M, M))
    bias = rng.normal(size=(B, H, L, M)).astype(np.float32)
    seen = rng.random((B, L, M)) < 0.6
    seen[:, :, 0] = True
    return q, k, v, bias, seen


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("block", [2, 256])
@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("shapes", ["BHLM", "B11M", "1HLM", "1111", "1HLM B11M"])
def test_equals_the_reference(shapes, null, block, by_row, monkeypatch):
    """Biases per row, per key, per head and distance, one for all, and two; blocks that do not divide the queries."""
    monkeypatch.setattr(module, "BLOCK", block)
    q, k, v, bias, seen = arrays()
    cut = lambda shape: bias[tuple(slice(1 if axis == "1" else None) for axis in shape)]  # noqa: E731
    biases = tuple(cut(shape) for shape in shapes.split())
    seen = seen[:, :1] if shapes == "B11M" else seen[:1] if shapes == "1HLM" else seen

    def fast(q, k, v, biases):
        return biased_attention(q, k, v, biases, seen, null, by_row)

    def slow(q, k, v, biases):
        return biased_attention_reference(q, k, v, sum(biases), seen, null)

    both = [jax.grad(lambda *args, f=f: jnp.sum(jnp.sin(f(*args))), (0, 1, 2, 3))(q, k, v, biases) for f in (fast, slow)]
    for found, wanted in zip(*map(jax.tree.leaves, both), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=4e-6)
    np.testing.assert_allclose(fast(q, k, v, biases), slow(q, k, v, biases), atol=2e-6)


def test_a_query_that_sees_nothing_passes_no_gradient_to_scores():
    q, k, v, bias, seen = arrays()
    seen = seen.copy()
    seen[0, 1] = False
    grads = [
        jax.grad(lambda q, k, v, bias, f=f: jnp.sum(jnp.sin(f(q, k, v, bias, seen))), (0, 1, 2, 3))(q, k, v, bias)
        for f in (lambda q, k, v, bias, seen: biased_attention(q, k, v, (bias,), seen), biased_attention_reference)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=4e-6), *grads)
    assert not np.any(grads[0][0][0, 1])


def test_in_bfloat16_it_is_as_near_as_the_reference():
    q, k, v, bias, seen = arrays(L=40, M=40)
    exact = biased_attention_reference(q, k, v, bias, seen)
    low = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    found = biased_attention(*low, (bias,), seen)
    assert found.dtype == jnp.bfloat16
    error = np.abs(np.asarray(found, np.float32) - exact).max()
    assert error < 1.5 * np.abs(np.asarray(biased_attention_reference(*low, bias, seen), np.float32) - exact).max()


def test_softmax_1_attends_to_nothing_where_scores_are_low():
    q, k, v, bias, seen = arrays()
    for f, low in ((biased_attention, (bias - 60.0,)), (biased_attention_reference, bias - 60.0)):
        assert np.abs(f(q, k, v, low, seen, True)).max() < 1e-20
        assert np.abs(f(q, k, v, low, seen, False)).max() > 0.1


def test_softmax_1_is_the_formula():
    scores = np.array([[-1.0, 2.0, 0.5]], np.float32)
    v = np.eye(3, dtype=np.float32)[None, :, None]
    q, k, seen = np.zeros((1, 1, 1, 3)), np.zeros((1, 3, 1, 3)), np.ones((1, 1, 3), bool)
    p = biased_attention(q, k, v, (scores[None, None],), seen, True)
    np.testing.assert_allclose(p[0, 0, 0], np.exp(scores[0]) / (1 + np.exp(scores[0]).sum()), rtol=1e-6)


@pytest.mark.parametrize("L, M", [(1, 4), (5, 3), (6, 6)])
def test_diagonals(L, M):
    values = np.arange(2 * (L + M - 1)).reshape(2, -1)
    i, j = np.mgrid[:L, :M]
    np.testing.assert_array_equal(diagonals(jnp.asarray(values), L), values[:, j - i + L - 1])
