"""Causal attention with windows and packed documents: a plain reference, causal blocks for CPUs, and the
library's kernels elsewhere."""

from functools import partial

import jax
import jax.numpy as jnp

# Queries at a time. 128 wastes less above the diagonal but copies more: a step took 1.15 times the CPU time.
BLOCK = 256
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
    (itself included; None: all). [B, L, H, K] -> [B, L, H, K], softmax in float32."""
    position = jnp.arange(q_BLHK.shape[1])
    scores = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BLHK).astype(jnp.float32) * q_BLHK.shape[-1] ** -0.5
    seen = _visible(position, position, segment_ids_BL, segment_ids_BL, window)
    p = jax.nn.softmax(jnp.where(seen[:, None], scores, MASKED), axis=-1)
    return jnp.einsum("bhlm,bmhk->blhk", p.astype(v_BLHK.dtype), v_BLHK)


def _blocks(length, window):
    """(query slice, key slice) of each block of queries: the keys that its mask can show."""
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        first = 0 if window is None else max(0, start - window + 1)
        yield slice(start, stop), slice(first, stop)


def _block_mask(qs, ks, segment_ids_BL, window):
    q_position, k_position = jnp.arange(qs.start, qs.stop), jnp.arange(ks.start, ks.stop)
    segments = (None, None) if segment_ids_BL is None else (segment_ids_BL[:, qs], segment_ids_BL[:, ks])
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
    for qs, ks in _blocks(q.shape[2], window):
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
    for (qs, ks), lse in zip(_blocks(q.shape[2], window), lses, strict=True):
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

    B, L, H, K = q_BLHK.shape
    pad = -L % BLOCK
    shape = (L + pad, L + pad)
    mask = splash.CausalMask(shape) if window is None else splash.LocalMask(shape, (window - 1, 0), 0)
    kernel = splash.make_splash_mha_single_device(splash.MultiHeadMask([mask] * H), interpret=interpret)
    ids_BL = jnp.zeros((B, L), jnp.int32) if segment_ids_BL is None else segment_ids_BL
    ids_BL = jnp.pad(ids_BL, ((0, 0), (0, pad)), constant_values=-1)
    q, k, v = (
        jnp.swapaxes(jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))), 1, 2) for x in (q_BLHK * K**-0.5, k_BLHK, v_BLHK)
    )
    o_BHLK = jax.vmap(kernel)(q, k, v, splash.SegmentIds(ids_BL, ids_BL))
    return jnp.swapaxes(o_BHLK, 1, 2)[:, :L]


def fused_attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, window):
    """`attention_reference` by `jax.nn.dot_product_attention`, for GPUs."""
    same = None if segment_ids_BL is None else (segment_ids_BL[:, None, :, None] == segment_ids_BL[:, None, None, :])
    local = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(q_BLHK, k_BLHK, v_BLHK, mask=same, is_causal=True, local_window_size=local)


def attention(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL=None, window=None):
    """`attention_reference`, fast on the default backend. XLA cannot partition splash attention's kernel, so several
    TPUs take the blocked form."""
    fast = {"gpu": fused_attention, "tpu": splash_attention if jax.device_count() == 1 else blocked_attention}
    return fast.get(jax.default_backend(), blocked_attention)(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, window)


def attention_step(q_BHK, k_NSK, v_NSK, valid_BS):
    """One query per row against its cache of N = B * H merged rows and heads: [B, H, K]; `valid_BS` marks filled
    slots. In this layout no product transposes the cache."""
    B, H, K = q_BHK.shape
    scores = jnp.einsum("nk,nsk->ns", q_BHK.reshape(B * H, K), k_NSK.astype(q_BHK.dtype)).astype(jnp.float32)
    scores = jnp.where(jnp.repeat(valid_BS, H, axis=0), scores * K**-0.5, MASKED)
    p_NS = jax.nn.softmax(scores, axis=-1).astype(v_NSK.dtype)
    return jnp.einsum("ns,nsk->nk", p_NS, v_NSK).astype(q_BHK.dtype).reshape(B, H, K)
