"""The mean of a piece, where boundaries are first positions of pieces: written out, its gradient, and byte by byte."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmlab.kernels.compaction import compact
from lmlab.models.chunkers import Routing
from lmlab.models.segments import PieceMean

WIDTH, LENGTH = 4, 14
STARTS = [0, 3, 4, 9, 10, 12]  # the second document begins at 9
SEGMENTS = np.array([[1] * 9 + [2] * 5], np.int32)


def parts():
    """(hidden states, starts, pool, its parameters, pooled as a function of hidden states and probabilities)."""
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(1, LENGTH, WIDTH)), jnp.float32)
    start = np.isin(np.arange(LENGTH), STARTS)[None]
    pool, c = PieceMean(WIDTH), compact(jnp.asarray(start), len(STARTS))
    call = lambda params, h, p: pool.apply(params, h, Routing(jnp.asarray(start), p, 0.0), c, SEGMENTS)  # noqa: E731
    made = pool.init(jax.random.key(0), hidden, Routing(jnp.asarray(start), 0.0 * start, 0.0), c, SEGMENTS)
    params = nn.unbox({"params": made["params"]})
    return hidden, start, pool, params, jax.jit(call)


def normed(x):
    """As a fresh LayerNorm does."""
    spread = x - x.mean(-1, keepdims=True)
    return spread / jnp.sqrt((spread**2).mean(-1, keepdims=True) + 1e-5)


def test_a_chunk_reads_the_piece_that_its_start_ends():
    hidden, _, _, params, call = parts()
    z = call(params, hidden, jnp.zeros((1, LENGTH)))[0]
    null = params["params"]["null"]
    h = hidden[0]
    pieces = [null, h[0:3].mean(0), h[3:4].mean(0), null, h[9:10].mean(0), h[10:12].mean(0)]
    np.testing.assert_allclose(z, normed(jnp.stack(pieces)), atol=1e-5)


def test_a_boundary_learns_as_from_a_soft_assignment_that_counts_it_for_what_it_starts():
    """Of one document; the densely written assignment gives a position 1 - |boundaries up to it - the piece's number|."""
    hidden, start, pool, params, _ = parts()
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(len(STARTS) - 1, WIDTH)), jnp.float32)
    ones, c = jnp.ones((1, LENGTH), jnp.int32), compact(jnp.asarray(start), len(STARTS))

    def ours(p):
        z = pool.apply(params, hidden, Routing(jnp.asarray(start), p, 0.0), c, ones)[0, 1:]
        return jnp.sum(z * weight)

    def dense(p):
        away = jnp.arange(len(STARTS) - 1.0) - jnp.cumsum(p, axis=1)[0][:, None]
        assigned = jnp.where(away == 0, 1 - away, 0.0)
        return jnp.sum(normed(assigned.T @ hidden[0] / (assigned.sum(0)[:, None] + 1e-9)) * weight)

    p = jnp.asarray(start, jnp.float32).at[0, 0].set(0.0)
    np.testing.assert_allclose(ours(p), dense(p), rtol=1e-5)
    expected = jax.grad(dense)(p)
    assert np.abs(expected).max() > 0.01
    # What moves all weights of a piece alike does not move its mean: but for rounding, only boundaries inside matter.
    np.testing.assert_allclose(jax.grad(ours)(p)[0, 1:], expected[0, 1:], atol=1e-5)


def test_byte_by_byte_and_behind_every_prompt_it_is_the_same():
    hidden, start, pool, params, _ = parts()
    hidden, start = hidden[:, :9], start[:, :9]
    c, ones = compact(jnp.asarray(start), 3), jnp.ones((1, 9), jnp.int32)
    z = pool.apply(params, hidden, Routing(jnp.asarray(start), 0.0 * start, 0.0), c, ones)[0]
    for prompt in range(9):
        if prompt:
            valid = np.arange(9)[None] < prompt
            cache = pool.apply(params, hidden, jnp.asarray(start & valid), jnp.asarray(valid), method="cache_after")
        else:
            cache = pool.init_cache(1)
        for t in range(prompt, 9):
            step = pool.apply(params, hidden[:, t], jnp.asarray(start[:, t]), cache, method="step")
            if start[0, t]:
                np.testing.assert_allclose(step[0][0], z[STARTS.index(t)], atol=1e-5, err_msg=f"{prompt} {t}")
            cache = step[1]


def test_no_chunk_reads_its_own_start_or_what_follows():
    hidden, start, _, params, call = parts()
    reads = jax.jacrev(lambda h: call(params, h, 1.0 * start)[0])(hidden)[:, :, 0]  # [chunk, channel, position, channel]
    read = np.abs(reads).max((1, 3)) > 1e-7
    assert [list(np.flatnonzero(row)) for row in read] == [[], [0, 1, 2], [3], [], [9], [10, 11]]
