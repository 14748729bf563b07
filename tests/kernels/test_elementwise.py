import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels import elementwise as kernels


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_equal(fast, slow, args, tolerance=1e-5):
    """Value and gradients under a random cotangent."""
    weight = normal(*jax.eval_shape(slow, *args).shape, seed=9)

    def run(f):
        loss = jax.value_and_grad(lambda *args: jnp.sum(f(*args) * weight), argnums=tuple(range(len(args))))
        return jax.jit(f)(*args), jax.jit(loss)(*args)[1]

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=tolerance)  # noqa: E731
    jax.tree.map(close, run(fast), run(slow))


def test_a_weight_in_a_wider_dtype_has_the_values_that_products_see():
    """In a compiled program too, where XLA leaves out a cast there and back; its gradient is not rounded."""
    w = normal(64, 4)
    wide = jax.jit(lambda w: kernels.Weight(w, jnp.bfloat16).astype(jnp.float32))
    seen = w.astype(jnp.bfloat16).astype(jnp.float32)
    assert np.any(seen != w)
    np.testing.assert_array_equal(wide(w), seen)
    np.testing.assert_array_equal(kernels.Weight(w, jnp.bfloat16).astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    g = normal(64, 4, seed=1)
    np.testing.assert_array_equal(jax.grad(lambda w: jnp.sum(wide(w) * g))(w), g)


def test_rms_norm_of_zeros_has_finite_gradients():
    g = jax.grad(lambda x: jnp.sum(kernels.rms_norm(x, jnp.ones(4), 1e-5)))(jnp.zeros((2, 4)))
    np.testing.assert_allclose(g, 1e-5**-0.5, rtol=1e-4)


@pytest.mark.parametrize("widths", [(12, 5), (7, 5), (5, 12)])
def test_linear_equals_the_product(widths):
    """Its weight gradient takes the narrower operand first, where it is much the narrower."""
    args = (normal(2, 7, widths[0]), normal(*widths, seed=1))
    assert_equal(kernels.linear, lambda x, w: x @ w, args, 1e-4)
    program = jax.jit(kernels.weight_gradient).lower(normal(14, widths[0]), normal(14, widths[1])).as_text()
    assert ("optimization_barrier" in program) == (widths[0] >= 2 * widths[1])


@pytest.mark.parametrize("shape", [(2, 7, 8), (3, 8)])
def test_swiglu_equals_the_reference(shape):
    args = (normal(*shape), normal(8, 2, 12, seed=1), normal(12, 8, seed=2))
    assert_equal(kernels.swiglu, kernels.swiglu_reference, args, 1e-4)


def test_cross_entropy_equals_the_reference():
    targets = jax.random.randint(jax.random.key(1), (2, 7), 0, 11)
    both = (kernels.softmax_cross_entropy, kernels.softmax_cross_entropy_reference)
    fast, slow = (lambda x, f=f: f(x, targets) for f in both)
    assert_equal(fast, slow, (3 * normal(2, 7, 11),))


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.asarray([[[1e4, -1e4, 0.0]]])
    target = jnp.asarray([[1]])
    value, g = jax.value_and_grad(lambda x: kernels.softmax_cross_entropy(x, target).sum())(logits)
    assert value == 2e4
    np.testing.assert_array_equal(g[0, 0], [1.0, -1.0, 0.0])


@pytest.mark.parametrize("vocab", [6, 2000])
def test_embedding_gradient_equals_the_scatter(vocab):
    tokens = jax.random.randint(jax.random.key(1), (2, 30), 0, vocab).at[:, :9].set(3)
    assert_equal(lambda table: kernels.embed(table, tokens), lambda table: table[tokens], (normal(vocab, 4),))
