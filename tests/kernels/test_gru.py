"""The GRU equals a plain loop, and begins anew where it is told to."""

import jax
import numpy as np

from lmlab.kernels.gru import gru


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(x_LGH, w_HGH, bias_H, start_L):
    """One row, one position at a time."""
    h, states = np.zeros(w_HGH.shape[0]), []
    for x, start in zip(x_LGH, start_L, strict=True):
        h = np.zeros_like(h) if start else h
        reset = sigmoid(x[0] + h @ w_HGH[:, 0])
        update = sigmoid(x[1] + h @ w_HGH[:, 1])
        new = np.tanh(x[2] + reset * (h @ w_HGH[:, 2] + bias_H))
        h = (1 - update) * new + update * h
        states.append(h)
    return np.array(states)


def arrays(N=2, B=3, L=11, H=5):
    rng = np.random.default_rng(0)
    x, w, bias = (rng.normal(size=s).astype(np.float32) for s in ((N, B, L, 3, H), (N, H, 3, H), (N, H)))
    return x, w, bias, rng.random((N, B, L)) < 0.2


def test_equals_a_plain_loop():
    x, w, bias, start = arrays()
    h = jax.jit(gru)(x, w, bias, start)
    for n in range(len(x)):
        for b in range(len(x[n])):
            np.testing.assert_allclose(h[n, b], loop(x[n, b], w[n], bias[n], start[n, b]), atol=1e-5)


def test_no_gradient_passes_a_start():
    x, w, bias, start = arrays()
    start[:] = False
    start[:, :, 6] = True
    seen = np.abs(jax.jit(jax.grad(lambda x: jax.numpy.sum(gru(x, w, bias, start)[:, :, 8] ** 2)))(x)).sum((0, 1, 3, 4))
    assert (seen[:6] == 0).all() and (seen[6:9] > 0).all() and (seen[9:] == 0).all()
