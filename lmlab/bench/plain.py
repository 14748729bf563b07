"""The peer in JAX: the textbook decoder-only transformer, generating by `lax.scan` over a [B, S, H, K] cache."""

from functools import partial

import jax
import jax.numpy as jnp


def init(shape, key):
    """Parameters of `peers.Shape`, N(0, 0.02^2)."""
    keys = iter(jax.random.split(key, 2 + 7 * shape.n_layers))
    D, H, F, V = shape.d_model, shape.n_heads, shape.d_ff, shape.vocab_size

    def normal(*dims):
        return 0.02 * jax.random.normal(next(keys), dims)

    def layer():
        qkvo = {name: normal(D, H, D // H) for name in "qkv"} | {"o": normal(H, D // H, D)}
        return {**qkvo, "gate": normal(D, F), "up": normal(D, F), "down": normal(F, D)} | dict.fromkeys(
            ("norm1", "norm2"), jnp.ones(D)
        )

    layers = [layer() for _ in range(shape.n_layers)]
    return {"embedding": normal(V, D), "layers": layers, "norm": jnp.ones(D), "head": normal(D, V)}


def _norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * scale


def _rotary(x_BLHK, position_L):
    half = x_BLHK.shape[-1] // 2
    angle = position_L[:, None, None] * 10_000.0 ** (-jnp.arange(half) / half)
    a, b = jnp.split(x_BLHK, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def forward(params, tokens_BL, cache, start):
    """Logits of tokens at positions from `start` on, and the cache with them written: prefill and step alike."""
    x, new = params["embedding"][tokens_BL], []
    position_L = start + jnp.arange(tokens_BL.shape[1])
    for w, (keys, values) in zip(params["layers"], cache, strict=True):
        h = _norm(x, w["norm1"])
        q, k, v = (jnp.einsum("bld,dhk->blhk", h, w[name]) for name in "qkv")
        q, k = _rotary(q, position_L), _rotary(k, position_L)
        keys = jax.lax.dynamic_update_slice(keys, k, (0, start, 0, 0))
        values = jax.lax.dynamic_update_slice(values, v, (0, start, 0, 0))
        scores = jnp.einsum("blhk,bshk->bhls", q, keys) * q.shape[-1] ** -0.5
        seen_LS = jnp.arange(keys.shape[1]) <= position_L[:, None]
        o = jnp.einsum("bhls,bshk->blhk", jax.nn.softmax(jnp.where(seen_LS, scores, -1e30)), values)
        x = x + jnp.einsum("blhk,hkd->bld", o, w["o"])
        h = _norm(x, w["norm2"])
        x = x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]
        new.append((keys, values))
    return _norm(x, params["norm"]) @ params["head"], new


@partial(jax.jit, static_argnums=(0, 3))
def generate(shape, params, prompt_BL, new, key):
    """`new` sampled tokens per row, int32 [B, new], behind prompts of one length."""
    B, L = prompt_BL.shape
    blank = jnp.zeros((B, L + new, shape.n_heads, shape.d_model // shape.n_heads))
    logits_BLV, cache = forward(params, prompt_BL, [(blank, blank)] * shape.n_layers, 0)

    def step(carry, n):
        token_B, cache = carry
        logits_BLV, cache = forward(params, token_B[:, None], cache, L + n)
        return (jax.random.categorical(jax.random.fold_in(key, n), logits_BLV[:, 0]), cache), token_B

    first_B = jax.random.categorical(jax.random.fold_in(key, new), logits_BLV[:, -1])
    return jax.lax.scan(step, (first_B, cache), jnp.arange(new))[1].T
