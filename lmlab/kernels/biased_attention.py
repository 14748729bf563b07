"""Attention under any mask with additive biases: encoders, cross-attention and relative positions, as in T5."""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a row with nothing to see (padding) stays finite


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


def biased_attention(q_BLHK, k_BMHK, v_BMHK, bias, seen, null=False):
    """`biased_attention_reference` by `jax.nn.dot_product_attention`; softmax_1 is a further key of zeros."""
    B, M, H, _ = k_BMHK.shape
    L = q_BLHK.shape[1]
    bias = jnp.broadcast_to(bias, (*jnp.broadcast_shapes(bias.shape[:2], (1, 1)), L, M))
    seen = jnp.broadcast_to(seen, (B, L, M))
    if null:
        k_BMHK, v_BMHK = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (k_BMHK, v_BMHK))
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, 1)))
        seen = jnp.pad(seen, ((0, 0), (0, 0), (0, 1)), constant_values=True)
    return jax.nn.dot_product_attention(
        q_BLHK, k_BMHK, v_BMHK, bias=bias, mask=seen[:, None], scale=1.0, implementation="xla"
    )


def diagonals(values_HN, queries):
    """Row i, column j of the result is `values[:, j - i + queries - 1]`: [H, N] to [H, queries, N - queries + 1].

    Relative positions from one value per distance. Reshapes only, so that its gradient scatters nothing.
    """
    H, N = values_HN.shape
    rows = jnp.broadcast_to(jnp.pad(values_HN, ((0, 0), (0, 1)))[:, None], (H, queries, N + 1)).reshape(H, -1)
    return rows[:, : queries * N].reshape(H, queries, N)[:, :, queries - 1 :]
