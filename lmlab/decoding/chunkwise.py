"""Writing chunk by chunk: a `Toucan`'s decoder writes bytes until one ends the chunk; then the rest of it runs.

The encoder reads a finished chunk byte by byte here, as many positions as a model that runs it at every byte. Of the
next chunk only the first byte waits for that, and a chunk could be read in one pass.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError


class Written(NamedTuple):
    """What was written, and what ran for it."""

    tokens: np.ndarray  # int32 [N]
    inner_calls: int  # passes of the inner network
    encoder_positions: int  # bytes that the encoder has read: those of all chunks that are finished
    decoder_calls: int


@partial(jax.jit, static_argnums=(0, 1))
def _apply(model, method, params, token, cache):
    return model.apply(params, jnp.full(1, token, jnp.int32), cache, method=method)


def write_chunks(model, params, prompt, new_tokens, key, longest=32):
    """Sample `new_tokens` tokens behind `prompt` (1-D, at least one token), chunk by chunk: `Written`.

    A chunk of `longest` bytes ends there. UserError for an empty prompt.
    """
    if len(prompt) < 1 or new_tokens < 1:
        raise UserError("Generation needs at least one new token and prompts of at least one token.")
    cache = model.init_cache(1, len(prompt) + new_tokens + 1)
    calls = {"inner": 0, "encoder": 0, "decoder": 0}
    # The prompt's last byte begins a chunk: what it began or did not begin in the text, the model may not know.
    for token in prompt[:-1]:
        _, cache = _apply(model, "step", params, token, cache)
    on, end, cache = _apply(model, "begin", params, prompt[-1], cache)
    written, pending = [], []
    while len(written) < new_tokens:
        joint = np.concatenate([np.asarray(on[0]), np.asarray(end[0])])
        drawn = int(jax.random.categorical(jax.random.fold_in(key, len(written)), jnp.asarray(joint)))
        token, ends = drawn % model.vocab_size, drawn >= model.vocab_size
        written.append(token)
        pending.append(token)
        calls["decoder"] += 1
        if ends or len(pending) == longest:
            for before in pending[:-1]:
                cache = _apply(model, "read", params, before, cache)
            on, end, cache = _apply(model, "begin", params, token, cache)
            calls["inner"] += 1
            calls["encoder"] += len(pending)
            pending = []
        else:
            on, end, cache = _apply(model, "write", params, token, cache)
    return Written(np.array(written, np.int32), calls["inner"], calls["encoder"], calls["decoder"])
