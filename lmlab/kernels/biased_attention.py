"""Attention under any mask with additive biases: encoders, cross-attention and relative positions, as in T5."""

from functools import partial

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a row with nothing to see (padding) stays finite
BLOCK = 256  # queries at a time
LARGE = 2**16  # pairs of query and key, from which on a CPU is faster row by row


def biased_attention_reference(q_BLHK, k_BMHK, v_BMHK, bias, seen, null=False):
    """softmax(q k^T + bias) v over the keys that are `seen`: [B, L, H, K], softmax in float32.

    Scores are not scaled: T5 leaves that to the initialisation. `bias` broadcasts to [B, H, L, M], `seen` to [B, L, M].
    `null`: softmax_1, whose denominator has a further 1, so that a query may attend to nothing (MrT5, eq. 7).
    """
    scores = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BMHK).astype(jnp.float32) + bias
    scores = jnp.where(jnp.expand_dims(seen, 1), scores, MASKED)
    top = jnp.max(scores, axis=-1, keepdims=True)
    top = jax.lax.stop_gradient(jnp.maximum(top, 0.0) if null else top)
    p = jnp.exp(scores - top)
    total = jnp.sum(p, axis=-1, keepdims=True) + (jnp.exp(-top) if null else 0.0)
    return jnp.einsum("bhlm,bmhk->blhk", (p / total).astype(v_BMHK.dtype), v_BMHK)


def biased_attention(q_BLHK, k_BMHK, v_BMHK, biases, seen, null=False, by_row=False):
    """`biased_attention_reference` with the sum of `biases`, a tuple, block by block of queries; the backward pass
    recomputes each block's probabilities from its saved maximum and sum (Dao et al. 2022). `by_row`: one row of the batch
    after the other, so that what a block needs stays in a CPU's cache."""
    biases = tuple(x.reshape((1,) * (4 - x.ndim) + x.shape) for x in biases)
    seen = seen.reshape((1,) * (3 - seen.ndim) + seen.shape)
    arguments = (q_BLHK, k_BMHK, v_BMHK, seen, *biases)
    if not by_row or len(q_BLHK) == 1:
        return _blocked(*arguments[:4], biases, null)
    own = [len(x) > 1 for x in arguments]  # others are the same for all rows

    def one(row):
        row = iter(row)
        q, k, v, seen, *biases = (next(row)[None] if mine else x for x, mine in zip(arguments, own, strict=True))
        return _blocked(q, k, v, seen, tuple(biases), null)[0]

    return jax.lax.map(one, [x for x, mine in zip(arguments, own, strict=True) if mine])


def _blocks(queries):
    return [slice(start, min(start + BLOCK, queries)) for start in range(0, queries, BLOCK)]


def _of(x, block):
    """The rows of a block, where an array has rows of its own for every query."""
    return x if x.shape[-2] == 1 else x[..., block, :]


def _scores(q, k, seen, biases, block):
    s = jnp.einsum("bhqk,bhmk->bhqm", q[:, :, block], k, preferred_element_type=jnp.float32)
    s = sum((_of(bias, block) for bias in biases), s)
    return jnp.where(_of(seen, block)[:, None], s, MASKED)


def _summed(ds, shape):
    """The gradient of a block's scores, for what is the same along some axes of it."""
    return jnp.sum(ds, axis=tuple(axis for axis in range(4) if shape[axis] == 1), keepdims=True)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _blocked(q_BLHK, k_BMHK, v_BMHK, seen, biases, null):
    return _fwd(q_BLHK, k_BMHK, v_BMHK, seen, biases, null)[0]


def _fwd(q_BLHK, k_BMHK, v_BMHK, seen, biases, null):
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q_BLHK, k_BMHK, v_BMHK))
    outputs, tops, totals = [], [], []
    for block in _blocks(q.shape[2]):
        s = _scores(q, k, seen, biases, block)
        top = jnp.max(s, axis=-1, keepdims=True)
        top = jnp.maximum(top, 0.0) if null else top
        p = jnp.exp(s - top)
        total = jnp.sum(p, axis=-1, keepdims=True) + (jnp.exp(-top) if null else 0.0)
        outputs.append(jnp.einsum("bhqm,bhmk->bhqk", p.astype(v.dtype), v) / total.astype(v.dtype))
        tops.append(top)
        totals.append(total)
    o = jnp.concatenate(outputs, axis=2)
    return jnp.swapaxes(o, 1, 2), (q, k, v, o, tops, totals, seen, biases)


def _bwd(null, residuals, g_BLHK):
    q, k, v, o, tops, totals, seen, biases = residuals
    g = jnp.swapaxes(g_BLHK, 1, 2)
    delta = jnp.sum((g * o).astype(jnp.float32), axis=-1, keepdims=True)
    dq, dbiases, dk, dv = [], [], 0.0, 0.0
    for block, top, total in zip(_blocks(q.shape[2]), tops, totals, strict=True):
        p = jnp.exp(_scores(q, k, seen, biases, block) - top) / total
        dp = jnp.einsum("bhqk,bhmk->bhqm", g[:, :, block], v, preferred_element_type=jnp.float32)
        ds = jnp.where(_of(seen, block)[:, None], p * (dp - delta[:, :, block]), 0.0)
        dbiases.append([_summed(ds, bias.shape) for bias in biases])
        ds = ds.astype(q.dtype)
        # [K, keys], not [keys, K]: of the two operands XLA's CPU back end then transposes the small one.
        dv += jnp.einsum("bhqk,bhqm->bhkm", g[:, :, block], p.astype(g.dtype), preferred_element_type=jnp.float32)
        dk += jnp.einsum("bhqk,bhqm->bhkm", q[:, :, block], ds, preferred_element_type=jnp.float32)
        dq.append(jnp.einsum("bhqm,bhmk->bhqk", ds, k))
    dq = jnp.swapaxes(jnp.concatenate(dq, axis=2), 1, 2)
    dk, dv = (jnp.moveaxis(x, 3, 1).astype(q.dtype) for x in (dk, dv))
    join = lambda bias, parts: sum(parts) if bias.shape[2] == 1 else jnp.concatenate(parts, axis=2)  # noqa: E731
    dbiases = [join(bias, parts).astype(bias.dtype) for bias, parts in zip(biases, zip(*dbiases), strict=True)]
    return dq, dk, dv, None, tuple(dbiases)


_blocked.defvjp(_fwd, _bwd)


def diagonals(values_HN, queries):
    """Row i, column j of the result is `values[:, j - i + queries - 1]`: [H, N] to [H, queries, N - queries + 1].

    Relative positions from one value per distance. Reshapes only, so that its gradient scatters nothing.
    """
    H, N = values_HN.shape
    rows = jnp.broadcast_to(jnp.pad(values_HN, ((0, 0), (0, 1)))[:, None], (H, queries, N + 1)).reshape(H, -1)
    return rows[:, : queries * N].reshape(H, queries, N)[:, :, queries - 1 :]
