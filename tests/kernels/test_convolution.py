import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels.convolution import causal_conv, causal_conv_reference, causal_conv_state, causal_conv_step

K, C = 4, 5


def inputs(L):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, L, C), (K, C), (C,), (2, K, C)]
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("L", [3, 9])
def test_values_and_gradients_equal_the_reference(L, with_state):
    x, w, bias, state = inputs(L)
    t = np.arange(L)
    segment_ids = jnp.asarray(np.stack([np.where(t < 2, 1, np.where(t < 7, 2, 0)), 1 + t // 3]), jnp.int32)
    for ids in (None, segment_ids):

        def run(conv, ids=ids):
            def loss(x, w, bias, state):
                return jnp.sum(jnp.sin(conv(x, w, bias, ids, state if with_state else None)))

            return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))(x, w, bias, state)

        fast, slow = run(causal_conv), run(causal_conv_reference)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), fast, slow)


def test_equals_numpy_convolution():
    x, w, bias, _ = (np.asarray(v) for v in inputs(20))
    y = causal_conv(x, w, bias)
    for c in range(C):
        expected = np.convolve(x[0, :, c], w[::-1, c])[:20] + bias[c]
        np.testing.assert_allclose(y[0, :, c], expected, atol=1e-5)


def test_documents_do_not_touch_by_gradient():
    x, w, bias, state = inputs(12)
    ids = jnp.broadcast_to(jnp.where(jnp.arange(12) < 5, 1, 2), (2, 12))

    def second(x, state):
        return jnp.sum(causal_conv(x, w, bias, ids, state)[:, 5:])

    dx, dstate = jax.jit(jax.grad(second, argnums=(0, 1)))(x, state)
    assert not jnp.any(dx[:, :5]) and not jnp.any(dstate) and jnp.all(dx[:, 5:] != 0)


def test_state_carries_on_in_a_second_call_and_in_steps():
    x, w, bias, state = inputs(12)
    y = causal_conv(x, w, bias, state_BKC=state)
    middle = causal_conv_state(state, x, jnp.asarray([7, 7]))
    np.testing.assert_allclose(causal_conv(x[:, 7:], w, bias, state_BKC=middle), y[:, 7:], atol=1e-6)
    for t in range(7, 12):
        y_t, middle = causal_conv_step(middle, x[:, t], w, bias)
        np.testing.assert_allclose(y_t, y[:, t], atol=1e-6)
    np.testing.assert_array_equal(middle, causal_conv_state(state, x, jnp.asarray([12, 12])))


def test_state_behind_rows_of_different_length():
    x, _, _, state = inputs(12)
    rows = causal_conv_state(state, x, jnp.asarray([0, 2]))
    np.testing.assert_array_equal(rows[0], state[0])
    np.testing.assert_array_equal(rows[1], jnp.concatenate([state[1, 2:], x[1, :2]]))
