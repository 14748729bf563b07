import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels import scan

linear_scan, linear_scan_reference = jax.jit(scan.linear_scan), jax.jit(scan.linear_scan_reference)


def inputs(B, L, D):
    keys = jax.random.split(jax.random.key(0), 4)
    a_BL = jax.random.uniform(keys[0], (B, L)) * (jax.random.uniform(keys[1], (B, L)) > 0.1)
    return a_BL, jax.random.normal(keys[2], (B, L, D)), jax.random.normal(keys[3], (B, D))


@pytest.mark.parametrize("L", [1, 32, 75])
def test_values_and_gradients_equal_the_step_recurrence(L):
    a, b, h0 = inputs(3, L, 5)

    def run(scan):
        loss = jax.value_and_grad(lambda *args: jnp.sum(jnp.sin(scan(*args))), argnums=(0, 1, 2))
        return jax.jit(loss)(a, b, h0)

    fast, slow = run(linear_scan), run(linear_scan_reference)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), fast, slow)
    np.testing.assert_allclose(linear_scan(a, b), linear_scan_reference(a, b), atol=2e-6)


def test_decays_from_zero_to_one_stay_accurate_and_finite():
    """H-Net's clamp beside almost no decay, where a difference of summed logs would lose digits."""
    _, b, h0 = inputs(1, 200, 4)
    a = jnp.concatenate([jnp.full((1, 100), 1e-4), jnp.full((1, 99), 0.999), jnp.zeros((1, 1))], axis=1)
    np.testing.assert_allclose(linear_scan(a, b, h0), linear_scan_reference(a, b, h0), atol=1e-5, rtol=1e-6)
    np.testing.assert_array_equal(linear_scan(a, b, h0)[:, -1], b[:, -1])
    grads = jax.grad(lambda *args: jnp.sum(linear_scan(*args) ** 2), argnums=(0, 1, 2))(a, b, h0)
    assert all(jnp.all(jnp.isfinite(g)) for g in grads)


def test_a_zero_lets_nothing_through():
    a, b, h0 = inputs(1, 80, 2)
    a = a.at[:, 40].set(0.0)
    db, dh0 = jax.grad(lambda b, h0: jnp.sum(linear_scan(a, b, h0)[:, 40:]), argnums=(0, 1))(b, h0)
    assert not jnp.any(db[:, :40]) and not jnp.any(dh0) and jnp.all(db[:, 40] != 0)


def test_low_precision_inputs_are_added_up_in_float32():
    b = jnp.full((1, 1000, 1), 1.0, jnp.bfloat16)  # a bfloat16 sum would stop at 256
    h = linear_scan(jnp.ones((1, 1000), jnp.bfloat16), b)
    assert h.dtype == jnp.float32 and h[0, -1, 0] == 1000
