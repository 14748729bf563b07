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


def test_splash_equals_the_reference(monkeypatch):
    monkeypatch.setattr(kernels, "SPLASH_BLOCK", 128)

    def interpreted(*args):
        return kernels.splash_attention(*args, interpret=True)

    assert_equal(interpreted, 200, segments(200), 20, head=128)


def test_documents_do_not_touch_by_gradient(monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 16)
    q, k, v, weight = inputs(40)
    ids = jnp.broadcast_to(jnp.where(jnp.arange(40) < 21, 1, 2), (B, 40))

    def second(q, k, v):
        return jnp.sum((kernels.blocked_attention(q, k, v, ids, None) * weight)[:, 21:])

    for g in jax.jit(jax.grad(second, argnums=(0, 1, 2)))(q, k, v):
        assert not jnp.any(g[:, :21]) and jnp.any(g[:, 22:])


def test_large_scores_stay_finite():
    q, k, v, weight = inputs(20)
    (_, o), grads = value_and_gradients(kernels.blocked_attention, 100 * q, 100 * k, v, weight, None, None)
    assert all(jnp.all(jnp.isfinite(x)) for x in (o, *grads))


@pytest.mark.parametrize("block", [4, 16])
@pytest.mark.parametrize("rows", [None, [1, 0]])
def test_a_step_equals_the_last_row(block, rows):
    """Rows filled to different lengths, in several blocks or one, all rows or some in another order."""
    q, k, v, _ = inputs(12)
    lengths = np.array([9, 5])[:B]
    slots = -(-12 // block) * block

    def cache(x_BLHK, fill):
        x_NLK = jnp.swapaxes(x_BLHK, 1, 2).reshape(B * H, 12, K)
        x_NSK = jnp.pad(x_NLK, ((0, 0), (0, slots - 12), (0, 0)), constant_values=fill)
        return jnp.split(x_NSK, slots // block, axis=1)

    order = np.arange(B) if rows is None else np.array(rows)
    row_N = None if rows is None else jnp.asarray((order[:, None] * H + np.arange(H)).reshape(-1))
    queries = jnp.stack([q[b, lengths[b] - 1] for b in order])
    step = kernels.attention_step(queries, cache(k, 7.0), cache(v, 7.0), jnp.asarray(lengths[order]), row_N)
    o = kernels.attention_reference(q, k, v)
    for got, b in zip(step, order, strict=True):
        np.testing.assert_allclose(got, o[b, lengths[b] - 1], atol=1e-6)


def test_a_step_reads_no_block_that_no_row_has_begun():
    """Blocks of unequal length; what lies in those that nobody has filled could be anything."""
    q, k, v, _ = inputs(12)
    lengths = np.array([3, 4])[:B]

    def cache(x_BLHK):
        x_NLK = jnp.swapaxes(x_BLHK, 1, 2).reshape(B * H, 12, K)
        first, *others = jnp.split(x_NLK, [4, 8], axis=1)
        return [first, *(jnp.full_like(other, jnp.nan) for other in others), jnp.full((B * H, 7, K), jnp.nan)]

    queries = jnp.stack([q[b, lengths[b] - 1] for b in range(B)])
    step = jax.jit(kernels.attention_step)(queries, cache(k), cache(v), jnp.asarray(lengths))
    o = kernels.attention_reference(q, k, v)
    for b in range(B):
        np.testing.assert_allclose(step[b], o[b, lengths[b] - 1], atol=1e-6)


def test_a_step_over_an_empty_cache_is_finite():
    q, k, _, _ = inputs(4)
    cache = [jnp.zeros((B * H, 4, K))] * 2
    assert jnp.all(jnp.isfinite(kernels.attention_step(q[:, 0], cache, cache, jnp.zeros(B, jnp.int32))))


def test_queries_of_branches_see_their_slots_alone():
    """Several queries a row, each with slots of its own choice; blocks that nobody sees could hold anything."""
    q, k, v, _ = inputs(12)
    rng = np.random.default_rng(0)
    seen_BRS = np.zeros((B, 3, 12), bool)
    seen_BRS[:, :2, :8] = rng.random((B, 2, 8)) < 0.5
    seen_BRS[:, :2, 3] = True  # the third query of each row sees nothing

    def cache(x_BLHK):
        x_NLK = jnp.swapaxes(x_BLHK, 1, 2).reshape(B * H, 12, K)
        first, second, last = jnp.split(x_NLK, [3, 8], axis=1)
        return [first, second, jnp.full_like(last, jnp.nan)]

    o = jax.jit(kernels.attention_branches)(q[:, :3], cache(k), cache(v), seen_BRS)
    scores = np.einsum("brhk,bshk->bhrs", q[:, :3], k) * K**-0.5
    weights = np.exp(np.where(seen_BRS[:, None], scores, -np.inf))[:, :, :2]
    expected = np.einsum("bhrs,bshk->brhk", weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(o[:, :2], expected, atol=1e-6)
    assert jnp.all(jnp.isfinite(o))
