"""Cached generation: prefill the prompts, then compiled loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.decoding.samplers import sample
from lmlab.errors import UserError
from lmlab.kernels.dispatch import compiled_for, mesh_of

PIECE = 16  # tokens between two looks at a stream


def _next_token(logits_BV, n, done_B, sampling):
    key, temperature, top_p, eos = sampling
    token_B = jnp.where(done_B, eos, sample(logits_BV, jax.random.fold_in(key, n), temperature, top_p))
    return token_B, done_B | (token_B == eos)


@partial(jax.jit, static_argnums=(0, 1, 5))
def _start(model, mesh, params, prompt_BL, length_B, new, sampling):
    """State behind the first new token of each row: (tokens so far, token_B, done_B, cache)."""
    B, L = prompt_BL.shape
    valid_BL = jnp.arange(L) < length_B[:, None]
    with compiled_for(mesh, whole_rows=True):
        logits_BLV, cache = model.apply(params, prompt_BL, valid_BL, model.init_cache(B, L + new), method="prefill")
    logits_BV = jnp.take_along_axis(logits_BLV, (length_B - 1)[:, None, None], axis=1)[:, 0]
    return 1, *_next_token(logits_BV, 0, jnp.zeros(B, bool), sampling), cache


@partial(jax.jit, static_argnums=(0, 1, 4), donate_argnums=3)
def _advance(model, mesh, params, state, count, sampling):
    """(`count` further tokens per row, state); stops computing once every row is done."""
    first, token_B, _, _ = state
    out_BN = jnp.full((len(token_B), count), sampling[-1], jnp.int32)

    def going(carry):
        _, (n, _, done_B, _) = carry
        return (n < first + count) & ~jnp.all(done_B)

    def step(carry):
        out_BN, (n, token_B, done_B, cache) = carry
        with compiled_for(mesh, whole_rows=True):
            logits_BV, cache = model.apply(params, token_B, cache, ~done_B, method="step")
        token_B, done_B = _next_token(logits_BV, n, done_B, sampling)
        return out_BN.at[:, n - first].set(token_B), (n + 1, token_B, done_B, cache)

    return jax.lax.while_loop(going, step, (out_BN, state))


def _prepare(prompts, new_tokens, eos, key, temperature, top_p):
    if new_tokens < 1 or min((len(p) for p in prompts), default=0) < 1:
        raise UserError("Generation needs at least one new token, and a prompt or more of at least one token.")
    lengths = np.array([len(p) for p in prompts], np.int32)
    padded = np.zeros((len(prompts), int(-(-lengths.max() // 32) * 32)), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    key = jax.random.key(0) if key is None else key
    return padded, lengths, (key, jnp.float32(temperature), jnp.float32(top_p), jnp.int32(eos))


def generate(model, params, prompts, new_tokens, eos, key=None, temperature=1.0, top_p=1.0):
    """Continue token sequences.

    prompts: list of 1-D integer arrays, any lengths, each at least one token (BOS). Returns int32 [B, new_tokens];
    after a row's first `eos` everything is `eos` (-1 as `eos` never stops). temperature 0 is greedy.
    """
    padded, lengths, sampling = _prepare(prompts, new_tokens, eos, key, temperature, top_p)
    mesh = mesh_of(params)
    state = _start(model, mesh, params, padded, lengths, new_tokens, sampling)
    first_B = np.asarray(state[1])  # before its buffer is donated
    if new_tokens == 1:
        return first_B[:, None]
    rest_BN, _ = _advance(model, mesh, params, state, new_tokens - 1, sampling)
    return np.concatenate([first_B[:, None], rest_BN], axis=1)


def stream(model, params, prompt, new_tokens, eos, key=None, temperature=1.0, top_p=1.0):
    """Yield what `generate` would for one prompt, as it comes: arrays of up to `PIECE` tokens, `eos` left out."""
    padded, lengths, sampling = _prepare([prompt], new_tokens, eos, key, temperature, top_p)
    mesh = mesh_of(params)
    state = _start(model, mesh, params, padded, lengths, -(-(new_tokens - 1) // PIECE) * PIECE + 1, sampling)
    tokens, given = np.asarray(state[1]), 0
    while True:
        tokens = tokens[: new_tokens - given]
        ended = tokens == eos
        yield tokens[: int(np.argmax(ended))] if ended.any() else tokens
        given += len(tokens)
        if ended.any() or given == new_tokens:
            return
        out_BN, state = _advance(model, mesh, params, state, PIECE, sampling)
        tokens = np.asarray(out_BN)[0]
