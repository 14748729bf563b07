import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels import attention as kernels

B, H, K = 2, 2, 8


def inputs(L, head=K):
    return [jax.random.normal(k, (B, L, H, head)) for k in jax.random.split(jax.random.key(0), 4)]


def segments(L):
    """Row 0: a short document, a long one, padding. Row 1: padding between, and at length 1 padding alone."""
    t = np.arange(L)
    row0 = np.select([t < min(5, L), t < L - 3], [1, 2], 0)
    row1 = np.select([t < L // 4, t < L // 2], [1, 0], 2 if L > 1 else 0)
    return jnp.asarray(np.stack([row0, row1]), jnp.int32)


def value_and_gradients(f, q, k, v, weight, *args):
    def loss(q, k, v):
        o = f(q, k, v, *args)
        return jnp.sum(o * weight), o

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)


def assert_equal(f, L, ids, window, head=K):
    args = inputs(L, head)
    fast = value_and_gradients(f, *args, ids, window)
    slow = value_and_gradients(kernels.attention_reference, *args, ids, window)
    fast, slow = (fast[0][1], fast[1]), (slow[0][1], slow[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), fast, slow)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(fast))


@pytest.mark.parametrize(
    "L,window,packed", [(1, 3, True), (37, None, False), (37, None, True), (37, 5, True)]
)
def test_blocked_equals_the_reference(L, window, packed, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 16)
    assert_equal(kernels.blocked_attention, L, segments(L) if packed else None, window)


def test_fused_equals_the_reference():
    assert_equal(kernels.fused_attention, 17, segments(17), 5)


def test_splash_equals_the_reference():
    def interpreted(*args):
        return kernels.splash_attention(*args, interpret=True)

    assert_equal(interpreted, 100, segments(100), 20, head=128)


def test_documents_do_not_touch_by_gradient(monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 16)
    q, k, v, weight = inputs(40)
    ids = jnp.broadcast_to(jnp.where(jnp.arange(40) < 21, 1, 2), (B, 40))

    def second(q, k, v):
        return jnp.sum((kernels.attention(q, k, v, ids) * weight)[:, 21:])

    for g in jax.jit(jax.grad(second, argnums=(0, 1, 2)))(q, k, v):
        assert not jnp.any(g[:, :21]) and jnp.any(g[:, 22:])


def test_large_scores_stay_finite():
    q, k, v, weight = inputs(20)
    (_, o), grads = value_and_gradients(kernels.blocked_attention, 100 * q, 100 * k, v, weight, None, None)
    assert all(jnp.all(jnp.isfinite(x)) for x in (o, *grads))


def test_a_step_equals_the_last_row():
    q, k, v, _ = inputs(9)
    o = kernels.attention_reference(q, k, v)
    pad = ((0, 0), (0, 3), (0, 0))
    k, v = (jnp.swapaxes(x, 1, 2).reshape(B * H, 9, K) for x in (k, v))
    valid = jnp.broadcast_to(jnp.arange(12) < 9, (B, 12))
    step = kernels.attention_step(q[:, -1], jnp.pad(k, pad, constant_values=7.0), jnp.pad(v, pad), valid)
    np.testing.assert_allclose(step, o[:, -1], atol=1e-6)
