"""Attention within short spans, in both directions: the encoders of word models."""

import jax
import jax.numpy as jnp

from lmlab.kernels.attention import MASKED


def span_attention_reference(q_BLHK, k_BLHK, v_BLHK, span_BL):
    """softmax(q k^T / sqrt(K)) v over all keys of the query's span, [B, L, H, K] -> [B, L, H, K]; span 0 is padding."""
    scores = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BLHK).astype(jnp.float32) * q_BLHK.shape[-1] ** -0.5
    same_BLM = span_BL[:, :, None] == span_BL[:, None, :]
    p = jax.nn.softmax(jnp.where(same_BLM[:, None], scores, MASKED), axis=-1)
    return jnp.einsum("bhlm,bmhk->blhk", p.astype(v_BLHK.dtype), v_BLHK)


def _around(x_BNW):
    """Each block with the blocks before and behind it: [B, N, W, ..] -> [B, N, 3 W, ..], zeros outside."""
    pad = [(0, 0)] * (x_BNW.ndim - 1)
    padded = jnp.pad(x_BNW, [pad[0], (1, 1), *pad[1:]])
    return jnp.concatenate([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], axis=2)


def span_attention(q_BLHK, k_BLHK, v_BLHK, span_BL, longest):
    """`span_attention_reference` of spans that lie together and hold at most `longest` positions: blocks of so many
    queries against three blocks of keys. What it gives in padding is not defined, but finite."""
    B, L, H, K = q_BLHK.shape
    pad = -L % longest
    blocks = lambda x: jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2)).reshape(  # noqa: E731
        B, (L + pad) // longest, longest, *x.shape[2:]
    )
    q, span_BNQ = blocks(q_BLHK * K**-0.5), blocks(span_BL)
    k, v, span_BNM = (_around(blocks(x)) for x in (k_BLHK, v_BLHK, span_BL))
    scores = jnp.einsum("bnqhk,bnmhk->bnhqm", q, k, preferred_element_type=jnp.float32)
    same = (span_BNQ[..., None] == span_BNM[:, :, None])[:, :, None]
    p = jax.nn.softmax(jnp.where(same, scores, MASKED), axis=-1)
    o = jnp.einsum("bnhqm,bnmhk->bnqhk", p.astype(v.dtype), v)
    return o.reshape(B, L + pad, H, K)[:, :L]
