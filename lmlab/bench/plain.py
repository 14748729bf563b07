"""The peer in JAX: a plain decoder-only transformer, generating by `lax.scan` over a whole cache.

Of the layouts tried for the cache on two CPU cores ([B, H, S, K], keys [B, H, K, S], [S, B, H, K]) the first was as fast as
any at batch 16; the last was 1.1 to 1.3 times as fast at batch 1, and 0.6 times at 16. Projections are joined.
"""

from functools import partial

import jax
import jax.numpy as jnp


def init(shape, key):
    """Parameters of `peers.Shape`, N(0, 0.02^2)."""
    keys = iter(jax.random.split(key, 2 + 4 * shape.n_layers))
    D, H, F, V = shape.d_model, shape.n_heads, shape.d_ff, shape.vocab_size

    def normal(*dims):
        return 0.02 * jax.random.normal(next(keys), dims)

    def layer():
        mixer = {"qkv": normal(D, 3 * D), "o": normal(D, D)}
        mlp = {"gate_up": normal(D, 2 * F), "down": normal(F, D)}
        return mixer | mlp | dict.fromkeys(("norm1", "norm2"), jnp.ones(D))

    layers = [layer() for _ in range(shape.n_layers)]
    return {"embedding": normal(V, D), "layers": layers, "norm": jnp.ones(D), "head": normal(D, V)}


def _norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * scale


def _rotary(x_BHLK, position_L):
    half = x_BHLK.shape[-1] // 2
    angle = position_L[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
    a, b = jnp.split(x_BHLK, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def forward(n_heads, params, tokens_BL, cache, start):
    """Logits of tokens at positions from `start` on, and the cache with them written: prefill and step alike."""
    x, new = params["embedding"][tokens_BL], []
    (B, L, D), position_L = x.shape, start + jnp.arange(tokens_BL.shape[1])
    for w, (keys, values) in zip(params["layers"], cache, strict=True):
        qkv = _norm(x, w["norm1"]) @ w["qkv"]
        q, k, v = jnp.moveaxis(qkv.reshape(B, L, 3, n_heads, D // n_heads), (2, 3), (0, 2))
        q, k = _rotary(q, position_L), _rotary(k, position_L)
        keys = jax.lax.dynamic_update_slice(keys, k, (0, 0, start, 0))
        values = jax.lax.dynamic_update_slice(values, v, (0, 0, start, 0))
        scores = jnp.einsum("bhlk,bhsk->bhls", q, keys) * q.shape[-1] ** -0.5
        seen_LS = jnp.arange(keys.shape[2]) <= position_L[:, None]
        o = jnp.einsum("bhls,bhsk->bhlk", jax.nn.softmax(jnp.where(seen_LS, scores, -1e30)), values)
        x = x + jnp.swapaxes(o, 1, 2).reshape(B, L, D) @ w["o"]
        gate, up = jnp.split(_norm(x, w["norm2"]) @ w["gate_up"], 2, axis=-1)
        x = x + (jax.nn.silu(gate) * up) @ w["down"]
        new.append((keys, values))
    return _norm(x, params["norm"]) @ params["head"], new


@partial(jax.jit, static_argnums=(0, 3))
def generate(shape, params, prompt_BL, new, key):
    """`new` sampled tokens per row, int32 [B, new], behind prompts of one length."""
    B, L = prompt_BL.shape
    H = shape.n_heads
    blank = jnp.zeros((B, H, L + new, shape.d_model // H))
    logits_BLV, cache = forward(H, params, prompt_BL, [(blank, blank)] * shape.n_layers, 0)

    def step(carry, n):
        token_B, cache = carry
        logits_BLV, cache = forward(H, params, token_B[:, None], cache, L + n)
        return (jax.random.categorical(jax.random.fold_in(key, n), logits_BLV[:, 0]), cache), token_B

    first_B = jax.random.categorical(jax.random.fold_in(key, new), logits_BLV[:, -1])
    return jax.lax.scan(step, (first_B, cache), jnp.arange(new))[1].T
