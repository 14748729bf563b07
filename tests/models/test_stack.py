"""Blocks that are compiled once compute what blocks in a row compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.models import stack
from lmlab.models.stack import Stack
from lmlab.training.precision import compute_weights


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("remat", [False, True])
def test_scanned_blocks_equal_blocks_in_a_row(remat, precision, monkeypatch):
    model = Stack("T3m1m3", 32, 64, n_heads=2, rotary_dim=8, d_state=8, remat=remat)
    x = jax.random.normal(jax.random.key(0), (2, 24, 32))
    segments = np.where(np.arange(24) < 9, 1, 2)[None].repeat(2, 0)
    params = jax.jit(model.init)(jax.random.key(1), x, segments, segments)
    params = jax.tree.map(lambda p: p.value if hasattr(p, "value") else p, params, is_leaf=lambda p: hasattr(p, "value"))

    def run(scanned):
        monkeypatch.setattr(stack, "SCANNED", scanned)

        def loss(params, x):
            return jnp.sum(jnp.sin(model.apply(compute_weights(params, precision), x, segments, segments)[0]))

        lowered = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, x)
        return lowered.compile()(params, x), lowered.as_text().count("dot_general")

    (value, gradients), plain_products = run(99)
    (scanned_value, scanned_gradients), products = run(3)
    assert products < 0.45 * plain_products  # those of one T of three and one m of four
    tolerance = 1e-5 if precision == "float32" else 3e-2
    np.testing.assert_allclose(scanned_value, value, rtol=tolerance)
    close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(close, scanned_gradients, gradients)
