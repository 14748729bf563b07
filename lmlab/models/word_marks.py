"""Where words end, groups of words end, numbers, punctuation and lines begin: AU-Net's regular expressions as one
automaton over bytes (arXiv 2506.14761, section 2.1; "word" strategies of the released code).

A level is marked at the white space that ends every n-th word in a row (words with one white space between them), at
the first and each third further character of a number or of a run of punctuation, and at the first newline of a white
space that does not follow punctuation directly. A character is one at its last byte. Every decision is made from the
bytes so far, as generation needs it. One is so only here: of white space with a newline further on, the original marks
the first character already, which training then leaks and generation cannot know; here the newline is marked, unless
the first character was anyway. The original's other strategies (pretok, punct) look ahead at every space or number, and
are left out.
"""

import functools
import unicodedata

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmlab.models.cache import put, take
from lmlab.models.chunkers import segment_starts

LETTER, NUMBER, SPACE, NEWLINE, OTHER, SPECIAL = range(6)
WHITE = (*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
LAST = 0x33000  # no letters, numbers or spaces above


@functools.cache
def kinds():
    """Kind of every code point below LAST, int8."""
    table = np.full(LAST, OTHER, np.int8)
    for point in range(LAST):
        category = unicodedata.category(chr(point))
        table[point] = {"L": LETTER, "N": NUMBER}.get(category[0], OTHER)
    table[list(WHITE)] = SPACE
    table[[10, 13]] = NEWLINE
    return table


def initial(batch):
    """State before a document: arrays [batch]."""
    zeros = jnp.zeros(batch, jnp.int32)
    return {
        "need": zeros,  # bytes that the character lacks
        "point": zeros,  # its code point so far
        "before": zeros + SPECIAL,  # kind of the last character
        "run": zeros,  # how many characters of that kind stand before it in a row
        "words": zeros,  # ended in a row
        "attached": zeros,  # whether the white space so far is newlines right behind punctuation
        "newline": zeros,  # whether a line has ended in this white space
        "marked": zeros,  # level of the first character of this white space
    }


def advance(state, byte_B, groups):
    """(state, level_B) behind one more byte. `groups`: words per unit of each level, from 1 up."""
    follows = (byte_B >= 0x80) & (byte_B < 0xC0)
    continues = follows & (state["need"] > 0)
    sizes = [byte_B >= least for least in (0xC0, 0xE0, 0xF0)]
    fresh = jnp.where(byte_B < 0xF5, sum(s.astype(jnp.int32) for s in sizes), 0)
    need = jnp.where(continues, state["need"] - 1, jnp.where(follows, 0, fresh))
    lead = jnp.where(fresh > 0, byte_B & (0x3F >> fresh), byte_B)
    point = jnp.where(continues, state["point"] << 6 | byte_B & 0x3F, lead)
    kind = jnp.where(point < LAST, jnp.asarray(kinds())[jnp.minimum(point, LAST - 1)], OTHER).astype(jnp.int32)
    kind = jnp.where(byte_B >= 0xF5, SPECIAL, jnp.where(follows & ~continues, OTHER, kind))

    before = state["before"]
    white, was_white = [(k == SPACE) | (k == NEWLINE) for k in (kind, before)]
    run = jnp.where(kind == before, state["run"] + 1, 0)
    begins = ((kind == NUMBER) | (kind == OTHER)) & (run % 3 == 0)
    ends_word = white & ~was_white & (before != SPECIAL)
    words = jnp.where(ends_word, state["words"] + 1, jnp.where(white | (kind == SPECIAL), 0, state["words"]))
    levels = [jnp.where(ends_word & (words % n == 0), i + 1, 0) for i, n in enumerate(groups)]
    level = functools.reduce(jnp.maximum, levels)

    was_attached = jnp.where(was_white, state["attached"] > 0, before == OTHER)
    attached = (kind == NEWLINE) & was_attached
    first = white & ~attached & (~was_white | was_attached)
    marked = jnp.where(first, level, state["marked"])
    newline_before = ~first & (state["newline"] > 0)
    ends_line = (kind == NEWLINE) & ~attached & ~newline_before
    top = len(groups)
    level = jnp.where(begins | (ends_line & (marked < top)), top, level)

    whole = need == 0
    new = {
        "need": need,
        "point": point,
        "before": kind,
        "run": run,
        "words": words,
        "attached": attached,
        "newline": white & (newline_before | ends_line),
        "marked": marked,
    }
    kept = {k: jnp.where(whole, v.astype(jnp.int32), state[k]) for k, v in new.items() if k not in ("need", "point")}
    return {"need": need, "point": point} | kept, jnp.where(whole, level, 0)


class WordMarker(nn.Module):
    """Levels for `Marked`: the highest whose unit ends at a byte. `groups`: words per unit by level, 1 first.

    A scan over the bytes, of a few integers per row.
    """

    groups: tuple[int, ...] = (1,)

    def __call__(self, tokens_BL, segment_ids_BL):
        """(level_BL, no loss)."""
        return self._scan(initial(len(tokens_BL)), tokens_BL, segment_ids_BL)[1], jnp.zeros(())

    def _scan(self, state, tokens_BL, segment_ids_BL):
        empty = initial(len(tokens_BL))

        def body(state, at):
            byte_B, first_B, valid_B = at
            start = jax.tree.map(lambda e, s: jnp.where(first_B, e, s), empty, state)
            new, level_B = advance(start, byte_B, self.groups)
            return jax.tree.map(lambda n, s: jnp.where(valid_B, n, s), new, state), jnp.where(valid_B, level_B, 0)

        at = (tokens_BL.T, segment_starts(segment_ids_BL).T, (segment_ids_BL > 0).T)
        state, level_LB = jax.lax.scan(body, state, at)
        return state, level_LB.T

    @nn.nowrap
    def init_cache(self, batch, length):
        """The automaton's state."""
        return initial(batch)

    def prefill(self, tokens_BL, valid_BL, cache):
        """(level_BL, cache behind right-padded prompts)."""
        state, level_BL = self._scan(cache, tokens_BL, valid_BL.astype(jnp.int32))
        return level_BL, state

    def step(self, tokens_B, cache, active_B, row_B=None):
        """(level_B, cache)."""
        state, level_B = advance(take(cache, row_B), tokens_B, self.groups)
        return level_B, put(cache, state, active_B, row_B)

    @nn.nowrap
    def flops(self, length):
        """No arithmetic worth counting."""
        return {}
