"""Cached generation: prefill the prompts, then one compiled loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.decoding.samplers import sample
from lmlab.errors import UserError


@partial(jax.jit, static_argnums=(0, 4))
def _generate(model, params, prompt_BL, length_B, new, key, temperature, top_p, eos):
    B, L = prompt_BL.shape
    valid_BL = jnp.arange(L) < length_B[:, None]
    cache = model.init_cache(B, L + new)
    logits_BLV, cache = model.apply(params, prompt_BL, valid_BL, cache, method="prefill")
    logits_BV = jnp.take_along_axis(logits_BLV, (length_B - 1)[:, None, None], axis=1)[:, 0]

    def next_token(logits_BV, n, done_B):
        token_B = sample(logits_BV, jax.random.fold_in(key, n), temperature, top_p)
        return jnp.where(done_B, eos, token_B), done_B | (token_B == eos)

    def going(carry):
        n, _, done_B, _, _ = carry
        return (n < new - 1) & ~jnp.all(done_B)

    def step(carry):
        n, out_BN, done_B, token_B, cache = carry
        logits_BV, cache = model.apply(params, token_B, cache, ~done_B, method="step")
        token_B, done_B = next_token(logits_BV, n + 1, done_B)
        return n + 1, out_BN.at[:, n + 1].set(token_B), done_B, token_B, cache

    token_B, done_B = next_token(logits_BV, 0, jnp.zeros(B, bool))
    out_BN = jnp.full((B, new), eos, jnp.int32).at[:, 0].set(token_B)
    return jax.lax.while_loop(going, step, (0, out_BN, done_B, token_B, cache))[1]


def generate(model, params, prompts, new_tokens, eos, key=None, temperature=1.0, top_p=1.0):
    """Continue token sequences.

    prompts: list of 1-D integer arrays, any lengths, each at least one token (BOS). Returns int32 [B, new_tokens];
    after a row's first `eos` everything is `eos` (-1 as `eos` never stops). temperature 0 is greedy.
    """
    if new_tokens < 1 or min(len(p) for p in prompts) < 1:
        raise UserError("Generation needs at least one new token and prompts of at least one token.")
    key = jax.random.key(0) if key is None else key
    lengths = np.array([len(p) for p in prompts], np.int32)
    padded = np.zeros((len(prompts), int(-(-lengths.max() // 32) * 32)), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    return np.asarray(_generate(model, params, padded, lengths, new_tokens, key, temperature, top_p, eos))
