import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels import compaction as kernels

STARTS = np.asarray([[*map(int, row)] for row in ("1001100", "1111111", "0010000", "0000000")], bool)


def test_positions_and_slots():
    c = kernels.compact(jnp.asarray(STARTS), 4)
    np.testing.assert_array_equal(c.valid_BC, [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(c.index_BC[0, :3], [0, 3, 4])
    np.testing.assert_array_equal(c.index_BC[1], [0, 1, 2, 3])
    np.testing.assert_array_equal(c.slot_BL[0], [0, 0, 0, 1, 2, 2, 2])
    np.testing.assert_array_equal(c.slot_BL[1], [0, 1, 2, 3, 3, 3, 3])  # beyond the capacity: the last chunk
    np.testing.assert_array_equal(c.kept_BL[1], [1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(c.overflow_B, [0, 3, 0, 0])


@pytest.mark.parametrize("capacity", [1, 3, 7, 12])
@pytest.mark.parametrize("L", [1, 7])
def test_values_and_gradients_equal_the_references(L, capacity):
    c = kernels.compact(jnp.asarray(STARTS[:, :L]), capacity)
    x = jax.random.normal(jax.random.key(0), (4, L, 3))
    z = jax.random.normal(jax.random.key(1), (4, capacity, 3))
    for fast, slow, v in [
        (kernels.gather, kernels.gather_reference, x),
        (kernels.spread, kernels.spread_reference, z),
    ]:

        def run(f, v=v):
            return jax.jit(jax.value_and_grad(lambda v: jnp.sum(jnp.sin(f(v, c)))))(v), f(v, c)

        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), run(fast), run(slow))


def test_spread_undoes_gather_at_the_starts():
    c = kernels.compact(jnp.asarray(STARTS), 7)
    x = jax.random.normal(jax.random.key(0), (4, 7, 3))
    back = kernels.spread(kernels.gather(x, c), c)
    np.testing.assert_array_equal(back[STARTS], x[STARTS])
    np.testing.assert_array_equal(back[0, 1], x[0, 0])
    assert not jnp.any(back[3])  # no start: an empty slot


@pytest.mark.parametrize("capacity", [1, 3, 7, 12])
def test_span_sums_equal_the_reference(capacity):
    """Also where the capacity overflows, where a row has no start, and where a span would reach into a document before."""
    segments = np.array([[1, 1, 1, 1, 2, 2, 2], [1] * 7, [1] * 7, [0] * 7], np.int32)
    c = kernels.compact(jnp.asarray(STARTS), capacity)
    x = jax.random.normal(jax.random.key(0), (4, 7, 3))

    def run(f):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(jnp.sin(f(x, c, segments)))))(x), f(x, c, segments)

    fast, slow = run(kernels.span_sums), run(kernels.span_sums_reference)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), fast, slow)
    if capacity == 7:
        np.testing.assert_allclose(slow[1][0, :3], [x[0, 0], x[0, 1:4].sum(0), x[0, 4]], rtol=1e-6)


@pytest.mark.parametrize("capacity", [1, 3, 7, 12])
def test_span_max_equals_the_reference(capacity):
    """In values, and in gradients where maxima are equal: each gets its part."""
    segments = np.array([[1, 1, 1, 1, 2, 2, 2], [1] * 7, [1] * 7, [0] * 7], np.int32)
    c = kernels.compact(jnp.asarray(STARTS), capacity)
    x = jnp.round(jax.random.normal(jax.random.key(0), (4, 7, 3)))  # with ties

    def reference(x, c, segments):
        of, inside = kernels.spans(c, segments)
        member = inside[:, None] & (of.slot_BL[:, None] == jnp.arange(capacity)[:, None])
        top = jnp.max(jnp.where(member[..., None], x[:, None], -jnp.inf), axis=2)
        return jnp.where(c.valid_BC[..., None], top, 0)

    def run(f):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(jnp.sin(f(x, c, segments)))))(x), f(x, c, segments)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), run(kernels.span_max), run(reference))
