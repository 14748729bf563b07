import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels.ssd import ssd as ssd_eager
from lmlab.kernels.ssd import ssd_reference, ssd_step

ssd = jax.jit(ssd_eager, static_argnames="chunk")
B, H, P, N = 2, 3, 8, 4


def inputs(L, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 6)
    x = jax.random.normal(keys[0], (B, L, H, P), dtype)
    dt = jax.nn.softplus(jax.random.normal(keys[1], (B, L, H)) - 2)
    b, c = (jax.random.normal(k, (B, L, N), dtype) for k in keys[2:4])
    return (x, dt, -jnp.exp(jax.random.normal(keys[4], (H,))), b, c), jax.random.normal(keys[5], (B, H, P, N))


def segments(L):
    """Row 0: documents ending inside a chunk, one of length 1, then padding. Row 1: padding between."""
    t = np.arange(L)
    row0 = np.select([t < L // 3, t < L // 3 + 1, t < L - 3], [1, 2, 3], 0)
    return jnp.asarray(np.stack([row0, np.select([t < 5, t < L // 2, t >= L // 2], [1, 0, 2])]), jnp.int32)


def loss(f, weight, **kwargs):
    def run(args, h0, segment_ids):
        y, h = f(*args, segment_ids, h0, **kwargs)
        return jnp.sum(jnp.sin(y)) + jnp.sum(weight * h), (y, h)

    return jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("L,chunk,packed", [(1, 16, False), (75, 16, False), (75, 16, True), (75, 64, True)])
def test_values_and_gradients_equal_the_step_recurrence(L, chunk, packed):
    args, h0 = inputs(L)
    segment_ids = segments(L) if packed else None
    fast = loss(ssd, 1 + h0, chunk=chunk)(args, h0, segment_ids)
    slow = loss(ssd_reference, 1 + h0)(args, h0, segment_ids)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=5e-5), fast, slow)


def test_documents_starting_at_chunk_edges():
    args, h0 = inputs(64)
    segment_ids = jnp.repeat(jnp.asarray([[1, 2, 2, 3], [1, 1, 2, 3]], jnp.int32), 16, axis=1)
    fast = loss(ssd, 1 + h0, chunk=16)(args, h0, segment_ids)
    slow = loss(ssd_reference, 1 + h0)(args, h0, segment_ids)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=5e-5), fast, slow)


def test_strong_decay_is_finite_forwards_and_backwards():
    """-2 per step over a chunk of 128: exp above the diagonal would be e^254."""
    L = 160
    (x, _, _, b, c), h0 = inputs(L)
    args = (x, jnp.ones((B, L, H)), jnp.full((H,), -2.0), b, c)
    fast = loss(ssd, h0, chunk=128)(args, h0, None)
    assert all(jnp.all(jnp.isfinite(v)) for v in jax.tree.leaves(fast))
    slow = loss(ssd_reference, h0)(args, h0, None)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-4), fast, slow)


def test_documents_do_not_touch_by_gradient():
    L = 48
    args, h0 = inputs(L)
    t = jnp.arange(L)
    segment_ids = jnp.broadcast_to(jnp.where(t < 20, 1, jnp.where(t < 39, 2, 0)), (B, L))

    def second(x, dt, b, c, h0):
        return jnp.sum(jnp.sin(ssd(x, dt, args[2], b, c, segment_ids, h0, chunk=16)[0][:, 20:39]))

    *grads, dh0 = jax.jit(jax.grad(second, argnums=range(5)))(args[0], args[1], args[3], args[4], h0)
    for g in grads:
        assert not jnp.any(g[:, :20]) and not jnp.any(g[:, 39:]) and jnp.any(g[:, 20:39])
    assert not jnp.any(dh0)


def test_causal_by_gradient():
    args, h0 = inputs(48)

    def before(x, dt, b, c):
        return jnp.sum(jnp.sin(ssd(x, dt, args[2], b, c, None, h0, chunk=16)[0][:, :21]))

    for g in jax.jit(jax.grad(before, argnums=range(4)))(args[0], args[1], args[3], args[4]):
        assert not jnp.any(g[:, 21:]) and jnp.all(jnp.any(g[:, :21] != 0, axis=tuple(range(2, g.ndim))))


def test_right_padding_with_dt_zero_keeps_the_state():
    (x, dt, a, b, c), h0 = inputs(40)
    _, h = ssd(x[:, :23], dt[:, :23], a, b[:, :23], c[:, :23], h0_BHPN=h0, chunk=16)
    _, padded = ssd(x, dt.at[:, 23:].set(0), a, b, c, h0_BHPN=h0, chunk=16)
    np.testing.assert_allclose(padded, h, atol=1e-6)


def test_state_carries_on_in_a_second_call_and_in_steps():
    (x, dt, a, b, c), _ = inputs(40)
    y, last = ssd(x, dt, a, b, c, chunk=16)
    _, h = ssd(x[:, :30], dt[:, :30], a, b[:, :30], c[:, :30], chunk=16)
    rest, _ = ssd(x[:, 30:], dt[:, 30:], a, b[:, 30:], c[:, 30:], h0_BHPN=h, chunk=16)
    np.testing.assert_allclose(rest, y[:, 30:], atol=1e-5)
    for t in range(30, 40):
        y_t, h = ssd_step(h, x[:, t], dt[:, t], a, b[:, t], c[:, t])
        np.testing.assert_allclose(y_t, y[:, t], atol=1e-5)
    np.testing.assert_allclose(h, last, atol=1e-5)


def test_bfloat16_operands_keep_float32_time_steps():
    """The gradient of dt is a sum of terms that cancel: rounding one side of it only would leave noise."""
    args, h0 = inputs(64, jnp.bfloat16)
    wide = tuple(v.astype(jnp.float32) for v in args)
    (_, (y, _)), (grads, _) = loss(ssd, h0, chunk=32)(args, h0, None)
    (_, (y_wide, _)), (grads_wide, _) = loss(ssd_reference, h0)(wide, h0, None)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32, jnp.bfloat16, jnp.bfloat16]
    np.testing.assert_allclose(y, y_wide, atol=0.02 * float(jnp.max(jnp.abs(y_wide))))
    # A's gradient sums 128 terms of both signs, in absolute value up to 60 times their sum.
    for g, e, tolerance in zip(grads, grads_wide, (0.01, 0.01, 0.05, 0.01, 0.01), strict=True):
        assert jnp.linalg.norm(g.astype(jnp.float32) - e) < tolerance * jnp.linalg.norm(e)
