"""This machine's matrix-multiplication rate: the unit in which a training step is measured."""

import time

import jax
import jax.numpy as jnp


def transformer_products(tokens, d_model, d_ff, vocab_size):
    """The matrix products (m, k, n) of one transformer layer and head over `tokens` positions, forward:
    queries, keys and values in one; attention output; both MLP inputs in one; MLP output; logits."""
    D, F = d_model, d_ff
    widths = [(D, 3 * D), (D, D), (D, 2 * F), (F, D), (D, vocab_size)]
    return [(tokens, k, n) for k, n in widths]


def with_gradients(products):
    """Each product x w, and those of its backward pass: dx = dy w^T and dw = x^T dy."""
    return [shape for m, k, n in products for shape in [(m, k, n), (m, n, k), (k, m, n)]]


class MatmulRate:
    """Times `shapes` (m, k, n) back to back on the default device; `measure()` returns FLOP/s.

    Kept as an object so that a benchmark can alternate its calls with what it compares: a shared machine's
    rate drifts by tens of per cent within minutes.
    """

    def __init__(self, shapes, dtype=jnp.float32):
        self.flops = sum(2 * m * k * n for m, k, n in shapes)
        multiply = jax.jit(jnp.matmul)
        self._run = []
        for m, k, n in shapes:
            a = jax.random.normal(jax.random.key(0), (m, k), dtype)
            b = jax.random.normal(jax.random.key(1), (k, n), dtype)
            self._run.append((multiply.lower(a, b).compile(), a, b))
        self.measure()

    def measure(self):
        """FLOP/s over all the shapes, once."""
        start = time.perf_counter()
        for multiply, a, b in self._run:
            jax.block_until_ready(multiply(a, b))
        return self.flops / (time.perf_counter() - start)
