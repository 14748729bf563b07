"""Writing chunk by chunk, in one compiled loop: a `Toucan`'s decoder writes bytes until one ends the chunk; then the
encoder reads them all but the last in a pass or a few, and the rest of the model runs once."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError
from lmlab.kernels.dispatch import compiled_for, mesh_of

PASS = 8  # positions that the encoder reads at once


class Written(NamedTuple):
    """What was written, and what ran for it."""

    tokens: np.ndarray  # int32 [N]
    inner_calls: int  # passes of the inner network
    encoder_positions: int  # bytes that the encoder has read: those of all chunks that are finished
    encoder_passes: int


def _draw(logits, key, n, vocab_size):
    """(byte, whether it ends its chunk), the n-th, from the logits of going on and of ending [1, V]."""
    drawn = jax.random.categorical(jax.random.fold_in(key, n), jnp.concatenate(logits, axis=-1)[0])
    return (drawn % vocab_size).astype(jnp.int32), drawn >= vocab_size


@partial(jax.jit, static_argnums=(0, 1, 5, 6))
def _write(model, mesh, params, prompt_L, length, new, longest, key):
    """(bytes [>= new], chunks, positions and passes of the encoder)."""

    def apply(method, *args):
        with compiled_for(mesh, whole_rows=True):
            return model.apply(params, *args, method=method)

    # The prompt's last byte begins a chunk: what it began or did not begin in the text, the model may not know.
    cache = model.init_cache(1, len(prompt_L) + new + PASS)
    if len(prompt_L) > 1:
        _, cache = apply("prefill", prompt_L[None], (jnp.arange(len(prompt_L)) < length - 1)[None], cache)
    on, end, cache = apply("begin", prompt_L[length - 1][None], cache)

    def chunk(carry):
        first, counts, out, logits, cache = carry

        def goes_on(carry):
            n, (_, ends), *_ = carry
            return ~ends & (n - first + 1 < longest) & (n + 1 < new)

        def write(carry):
            n, (token, _), out, _, cache = carry
            *logits, cache = apply("write", token[None], cache)
            return n + 1, _draw(logits, key, n + 1, model.vocab_size), out.at[n].set(token), tuple(logits), cache

        def read(carry):
            done, passes, cache = carry
            some = jax.lax.dynamic_slice(out, (done,), (PASS,))
            count = jnp.minimum(last - done, PASS)
            return done + count, passes + 1, apply("read", some[None], count[None], cache)

        carry = first, _draw(logits, key, first, model.vocab_size), out, logits, cache
        last, (token, ends), out, _, cache = jax.lax.while_loop(goes_on, write, carry)
        out = out.at[last].set(token)
        _, passes, cache = jax.lax.while_loop(lambda c: c[0] < last, read, (first, 0, cache))
        *logits, cache = apply("begin", token[None], cache)
        # What the last byte of all has not ended is no chunk.
        finished = ends | (last - first + 1 == longest)
        counts += jnp.where(finished, jnp.array([1, last - first + 1, passes + 1]), 0)
        return last + 1, counts, out, tuple(logits), cache

    carry = 0, jnp.zeros(3, jnp.int32), jnp.zeros(new + PASS, jnp.int32), (on, end), cache
    _, counts, out, *_ = jax.lax.while_loop(lambda c: c[0] < new, chunk, carry)
    return out, counts


def write_chunks(model, params, prompt, new_tokens, key, longest=32):
    """Sample `new_tokens` tokens behind `prompt` (1-D, at least one token), chunk by chunk: `Written`.

    A chunk of `longest` bytes ends there. One row: others would wait for its chunks, and it for theirs. UserError for an
    empty prompt.
    """
    if len(prompt) < 1 or new_tokens < 1:
        raise UserError("Generation needs at least one new token and prompts of at least one token.")
    padded = np.zeros(1 if len(prompt) == 1 else -(-len(prompt) // 32) * 32, np.int32)
    padded[: len(prompt)] = prompt
    out, counts = _write(model, mesh_of(params), params, padded, len(prompt), new_tokens, longest, key)
    return Written(np.asarray(out)[:new_tokens], *np.asarray(counts).tolist())
