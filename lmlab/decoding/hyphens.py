"""Compounds split by a model that writes a word again, with hyphens: greedily, and never another word."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError
from lmlab.kernels.dispatch import compiled_for, mesh_of
from lmlab.text.compounds import HYPHEN, hyphenated, joined


@partial(jax.jit, static_argnums=(0, 1))
def _seams(model, mesh, params, inputs_BS, length_B, bos):
    """Where the model would rather write a hyphen than the next letter, bool [B, S]."""
    B, S = inputs_BS.shape
    rows = jnp.arange(B)

    def step(state, _):
        cache, token_B, at_B, seam_BS = state
        active_B = at_B < length_B
        logits_BV, cache = model.apply(params, token_B, cache, active_B, method="step")
        place_B = jnp.minimum(at_B, S - 1)
        letter_B = inputs_BS[rows, place_B]
        own_B = jnp.take_along_axis(logits_BV, letter_B[:, None], axis=1)[:, 0]
        begins_B = letter_B & 0xC0 != 0x80  # a UTF-8 character, which no hyphen cuts in two
        hyphen_B = active_B & (at_B > 0) & begins_B & (token_B != HYPHEN[0]) & (logits_BV[:, HYPHEN[0]] > own_B)
        seam_BS = seam_BS.at[rows, place_B].set(seam_BS[rows, place_B] | hyphen_B)
        return (cache, jnp.where(hyphen_B, HYPHEN[0], letter_B), at_B + ~hyphen_B, seam_BS), None

    with compiled_for(mesh, whole_rows=True):
        cache = model.apply(params, inputs_BS, jnp.arange(S) <= length_B[:, None], 2 * S, method="read")
        state = (cache, jnp.full(B, bos), jnp.zeros(B, jnp.int32), jnp.zeros((B, S), bool))
        (_, _, _, seam_BS), _ = jax.lax.scan(step, state, length=2 * S)
    return seam_BS


def decompound(model, params, words, tokenizer, longest=32, rows=128, check=lambda: None):
    """The words (bytes, their own hyphens not looked at) with hyphens where the encoder-decoder `model` writes them. A
    hyphen stands where it is likelier than the word's next letter, and never within one, so that nothing but hyphens is
    added and UTF-8 stays valid.

    UserError for a word of `longest` bytes or more. `check`: called before every `rows` of words.
    """
    words = [joined(word) for word in words]
    if any(len(word) >= longest for word in words):
        raise UserError(f"Words to be split have fewer than {longest} bytes; one has {max(map(len, words))}.")
    found = []
    for begin in range(0, len(words), rows):
        check()
        group = words[begin : begin + rows]
        inputs_BS, length_B = np.zeros((rows, longest), np.int32), np.zeros(rows, np.int32)
        for row, word in enumerate(group):
            inputs_BS[row, : len(word) + 1] = [*word, tokenizer.eos]
            length_B[row] = len(word)
        seam_BS = np.asarray(_seams(model, mesh_of(params), params, inputs_BS, length_B, tokenizer.bos))
        found += [hyphenated(word, np.flatnonzero(seams)) for word, seams in zip(group, seam_BS)]
    return found
