"""The plain decoder that generation is measured against really generates: its cache equals the full forward."""

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.bench import plain
from lmlab.bench.decode import interleave
from lmlab.bench.peers import Shape

SHAPE = Shape(vocab_size=256, d_model=16, n_layers=2, n_heads=2, d_ff=32, batch_size=1, length=12)


def empty(batch, length):
    blank = jnp.zeros((batch, SHAPE.n_heads, length, SHAPE.d_model // SHAPE.n_heads))
    return [(blank, blank)] * SHAPE.n_layers


def test_steps_equal_the_full_forward():
    params = plain.init(SHAPE, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (3, 12), 0, 256)
    full, _ = plain.forward(SHAPE.n_heads, params, tokens, empty(3, 12), 0)
    logits, cache = plain.forward(SHAPE.n_heads, params, tokens[:, :5], empty(3, 12), 0)
    np.testing.assert_allclose(logits, full[:, :5], atol=1e-6)
    for t in range(5, 12):
        logits, cache = plain.forward(SHAPE.n_heads, params, tokens[:, t : t + 1], cache, t)
        np.testing.assert_allclose(logits[:, 0], full[:, t], atol=1e-6)


def test_generation_gives_the_tokens_asked_for():
    out = plain.generate(SHAPE, plain.init(SHAPE, jax.random.key(0)), jnp.full((2, 5), 97), 7, jax.random.key(2))
    assert out.shape == (2, 7) and len(np.unique(out)) > 5


def test_subjects_take_turns():
    order = []
    subjects = {name: lambda seed, name=name: order.append((name, seed)) or 1.0 for name in "ab"}
    assert interleave(subjects, 2) == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert order == [(n, s) for s in range(3) for n in "ab"]
