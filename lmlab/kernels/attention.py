"""Causal attention with windows and packed documents: a plain reference, causal blocks, and splash attention
on a TPU."""

from functools import partial

import jax
import jax.numpy as jnp

# Queries at a time, at most. 128 wastes less above the diagonal but copies more: a step took 1.15 times the CPU time.
BLOCK = 256
SPLASH_BLOCK = 512  # queries and keys at a time on a TPU; a multiple of 128
MASKED = -1e30  # finite, so that a row with nothing to see (padding) stays finite


def _visible(q_position, k_position, q_segment, k_segment, window):
    """Which keys each query sees: [B or 1, q, k] bool."""
    seen = k_position <= q_position[:, None]
    if window is not None:
        seen &= k_position > q_position[:, None] - window
    seen = seen[None]
    if q_segment is not None:
        seen = seen & (q_segment[:, :, None] == k_segment[:, None, :])
    return seen


def attention_reference(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL=None, window=None):
    """softmax(q k^T / sqrt(K)) v over the keys at or before each query, in its segment, within `window` keys
    (itself included; None: all). [B, L, H, K] -> [B, L, H, K], softmax in float32.

    Of more keys than queries, the queries are at the last positions; `segment_ids_BL` are the keys'.
    """
    position = jnp.arange(k_BLHK.shape[1])
    first = k_BLHK.shape[1] - q_BLHK.shape[1]
    scores = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BLHK).astype(jnp.float32) * q_BLHK.shape[-1] ** -0.5
    q_ids_BL = None if segment_ids_BL is None else segment_ids_BL[:, first:]
    seen = _visible(position[first:], position, q_ids_BL, segment_ids_BL, window)
    p = jax.nn.softmax(jnp.where(seen[:, None], scores, MASKED), axis=-1)
    return jnp.einsum("bhlm,bmhk->blhk", p.astype(v_BLHK.dtype), v_BLHK)


def _blocks(q, k, window):
    """(query slice, key slice) of each block of queries: the keys that its mask can show. [.., positions, K]."""
    queries = q.shape[-2]
    before = k.shape[-2] - queries  # keys before the first query
    block = -(-queries // -(-queries // BLOCK))  # as equal as can be
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        first = 0 if window is None else max(0, before + start - window + 1)
        yield slice(start, stop), slice(first, before + stop)


def _block_mask(qs, ks, segment_ids_BL, window):
    at = slice(ks.stop - (qs.stop - qs.start), ks.stop)  # the queries among the keys
    q_position, k_position = jnp.arange(at.start, at.stop), jnp.arange(ks.start, ks.stop)
    segments = (None, None) if segment_ids_BL is None else (segment_ids_BL[:, at], segment_ids_BL[:, ks])
    return _visible(q_position, k_position, *segments, window)[:, None]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def blocked_attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, window):
    """`attention_reference` block by block of queries, skipping what is masked; the backward pass recomputes
    each tile of probabilities from its saved log-sum-exp (Dao et al. 2022)."""
    return _blocked_fwd(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, window)[0]


def _blocked_fwd(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, window):
    scale = q_BLHK.shape[-1] ** -0.5
    q, k, v = [jnp.swapaxes(x, 1, 2) for x in (q_BLHK * scale, k_BLHK, v_BLHK)]
    outputs, lses = [], []
    for qs, ks in _blocks(q, k, window):
        s = jnp.einsum("bhqk,bhmk->bhqm", q[:, :, qs], k[:, :, ks], preferred_element_type=jnp.float32)
        s = jnp.where(_block_mask(qs, ks, segment_ids_BL, window), s, MASKED)
        top = jnp.max(s, axis=-1, keepdims=True)
        p = jnp.exp(s - top)
        total = jnp.sum(p, axis=-1, keepdims=True)
        outputs.append(jnp.einsum("bhqm,bhmk->bhqk", p.astype(v.dtype), v[:, :, ks]) / total.astype(v.dtype))
        lses.append(top + jnp.log(total))
    o = jnp.concatenate(outputs, axis=2)
    return jnp.swapaxes(o, 1, 2), (q, k, v, o, lses, segment_ids_BL)


def _blocked_bwd(window, residuals, g_BLHK):
    q, k, v, o, lses, segment_ids_BL = residuals
    g = jnp.swapaxes(g_BLHK, 1, 2)
    delta = jnp.sum((g * o).astype(jnp.float32), axis=-1, keepdims=True)
    dq, dk, dv = [], *[jnp.zeros_like(jnp.swapaxes(x, 2, 3), jnp.float32) for x in (k, v)]
    for (qs, ks), lse in zip(_blocks(q, k, window), lses, strict=True):
        s = jnp.einsum("bhqk,bhmk->bhqm", q[:, :, qs], k[:, :, ks], preferred_element_type=jnp.float32)
        p = jnp.exp(jnp.where(_block_mask(qs, ks, segment_ids_BL, window), s, MASKED) - lse)
        dp = jnp.einsum("bhqk,bhmk->bhqm", g[:, :, qs], v[:, :, ks], preferred_element_type=jnp.float32)
        ds = (p * (dp - delta[:, :, qs])).astype(q.dtype)
        # [K, keys], not [keys, K]: of the two operands XLA's CPU back end then transposes the small one.
        dv = dv.at[..., ks].add(jnp.einsum("bhqk,bhqm->bhkm", g[:, :, qs], p.astype(g.dtype)))
        dk = dk.at[..., ks].add(jnp.einsum("bhqk,bhqm->bhkm", q[:, :, qs], ds))
        dq.append(jnp.einsum("bhqm,bhmk->bhqk", ds, k[:, :, ks]))
    dq = jnp.concatenate(dq, axis=2) * q.shape[-1] ** -0.5
    dq, dk, dv = jnp.swapaxes(dq, 1, 2), jnp.moveaxis(dk, 3, 1), jnp.moveaxis(dv, 3, 1)
    return (*[x.astype(q.dtype) for x in (dq, dk, dv)], None)


blocked_attention.defvjp(_blocked_fwd, _blocked_bwd)


def splash_attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, window, interpret=False):
    """`attention_reference` by JAX's splash attention for TPUs, on rows padded to a multiple of its block."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    (B, L, H, K), M = q_BLHK.shape, k_BLHK.shape[1]
    block = min(SPLASH_BLOCK, -(-L // 128) * 128)
    # Of more keys than queries, the queries are the last: padding goes before both. Else behind, as free to drop.
    shape = (L + -L % block, M + -M % block)
    last = shape[1] - shape[0]
    mask = splash.CausalMask(shape, last) if window is None else splash.LocalMask(shape, (window - 1, 0), last)
    sizes = splash.BlockSizes(**dict.fromkeys(
        ["block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute", "block_q_dq",
         "block_kv_dq"],
        block,
    ))
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([mask] * H), block_sizes=sizes, interpret=interpret
    )

    def padded(v, fill=0):
        pad = -v.shape[1] % block
        return jnp.pad(v, ((0, 0), (pad, 0) if M > L else (0, pad)) + ((0, 0),) * (v.ndim - 2), constant_values=fill)

    ids_BM = jnp.zeros((B, M), jnp.int32) if segment_ids_BL is None else segment_ids_BL
    ids = splash.SegmentIds(padded(ids_BM[:, M - L :], -1), padded(ids_BM, -1))
    q, k, v = (jnp.swapaxes(padded(x), 1, 2) for x in (q_BLHK * K**-0.5, k_BLHK, v_BLHK))
    o_BLHK = jnp.swapaxes(jax.vmap(kernel)(q, k, v, ids), 1, 2)
    return o_BLHK[:, -L:] if M > L else o_BLHK[:, :L]


def _part(q, k_NQK, v_NQK, seen, queries):
    """What queries get of one block of keys: (largest score, sum of exponentials, output), the last two relative to the
    first. `queries`: axes of q before its channels."""
    s = jnp.einsum(f"{queries}k,nqk->{queries}q", q, k_NQK.astype(q.dtype)).astype(jnp.float32) * q.shape[-1] ** -0.5
    s = jnp.where(seen, s, MASKED)
    top = jnp.max(s, axis=-1)
    p = jnp.exp(s - top[..., None])
    o = jnp.einsum(f"{queries}q,nqk->{queries}k", p.astype(q.dtype), v_NQK.astype(q.dtype))
    return top, jnp.sum(p, axis=-1), o.astype(jnp.float32)


def _over_blocks(part, begun, q, k_ZNQK, v_ZNQK):
    """Joins `part(first slot, k, v)` of the blocks that are `begun(first slot, slots)` by their log-sum-exps
    (flash-decoding, Dao et al. 2023). Blocks are arrays of their own, as XLA's CPU back end would copy a slice before it
    multiplies it."""

    def unread(*_):
        return jnp.full(q.shape[:-1], MASKED), jnp.zeros(q.shape[:-1]), jnp.zeros(q.shape)

    parts, first = [], 0
    for k_NQK, v_NQK in zip(k_ZNQK, v_ZNQK, strict=True):
        of_block, Q = partial(part, first), k_NQK.shape[1]
        parts.append(jax.lax.cond(begun(first, Q), of_block, unread, k_NQK, v_NQK) if first else of_block(k_NQK, v_NQK))
        first += Q
    top, total, o = (jnp.stack(x) for x in zip(*parts, strict=True))
    share = jnp.exp(top - jnp.max(top, axis=0))
    return (jnp.sum(share[..., None] * o, axis=0) / jnp.sum(share * total, axis=0)[..., None]).astype(q.dtype)


def attention_step(q_BHK, k_ZNQK, v_ZNQK, filled_B, row_N=None):
    """One query per row against the first `filled_B` slots of its cache: [B, H, K].

    The cache is a sequence of Z blocks [N, Q, K] for merged rows and heads, Q slots each of its own; only blocks that some
    row has begun are read. `row_N`: which N of the cache the B * H queries belong to; None: all, in order.
    """
    q_NK, filled_N = q_BHK.reshape(-1, q_BHK.shape[-1]), jnp.repeat(filled_B, q_BHK.shape[1])

    def part(first, k_NQK, v_NQK):
        slot_Q = first + jnp.arange(k_NQK.shape[1])
        if row_N is not None:
            k_NQK, v_NQK = k_NQK[row_N], v_NQK[row_N]
        return _part(q_NK, k_NQK, v_NQK, slot_Q < filled_N[:, None], "n")

    return _over_blocks(part, lambda first, Q: first < jnp.max(filled_B), q_NK, k_ZNQK, v_ZNQK).reshape(q_BHK.shape)


def attention_branches(q_BRHK, k_ZNQK, v_ZNQK, seen_BRS):
    """R queries per row, each against those slots of its row's cache that it sees: [B, R, H, K], anything for a query
    that sees none. Blocks as of `attention_step`, S slots in all; of those behind the first, only what somebody sees is
    read."""
    B, R, H, K = q_BRHK.shape
    q = jnp.swapaxes(q_BRHK, 1, 2).reshape(B * H, R, K)
    one = R == 1  # XLA's CPU back end is slower at a product of one than without the axis
    q = q[:, 0] if one else q

    def part(first, k_NQK, v_NQK):
        seen = jnp.repeat(seen_BRS[:, :, first : first + k_NQK.shape[1]], H, axis=0)
        return _part(q, k_NQK, v_NQK, seen[:, 0] if one else seen, "n" if one else "nr")

    o = _over_blocks(part, lambda first, Q: jnp.any(seen_BRS[:, :, first : first + Q]), q, k_ZNQK, v_ZNQK)
    return jnp.swapaxes(o.reshape(B, H, R, K), 1, 2)
