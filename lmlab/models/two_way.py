"""Stacks that see both ways, for models that fill gaps and for what lies within a word that is over."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError
from lmlab.kernels.dispatch import by_rows
from lmlab.kernels.span_attention import span_attention, span_attention_reference
from lmlab.models.attention import Attention
from lmlab.models.chunkers import segment_starts
from lmlab.models.language_model import LanguageModel
from lmlab.models.stack import Stack


class TwoWayAttention(Attention):
    """Attention to all positions of the same segment, before and behind. `longest`: positions of the longest segment;
    None: the whole row."""

    longest: int | None = None

    def __call__(self, x_BLD, segment_ids_BL):
        """[B, L, D] -> [B, L, D]; segment 0 is padding."""
        q, k, v = self._qkv(x_BLD, np.arange(x_BLD.shape[1])[None])
        if self.longest is None:
            return self._out(by_rows(span_attention_reference, (q, k, v), segment_ids_BL))
        return self._out(span_attention(q, k, v, segment_ids_BL, self.longest))


class TwoWay(Stack):
    """A `Stack` of attention in both directions: the forward pass only, for there is no next position to step to.

    `longest`: see `TwoWayAttention`. UserError for a layer string with other mixers than attention.
    """

    longest: int | None = None

    @nn.nowrap
    def _mixer(self, letter, out_std):
        if letter not in "tT":
            raise UserError(f"A stack that sees both ways has layers t or T, not {letter!r}.")
        attention = (self.d_model, self.n_heads, self.rotary_dim, None, out_std, self.rotary_base)
        return TwoWayAttention(*attention, longest=self.longest, parent=None)

    def prefill(self, *_):
        """UserError: it continues no text."""
        raise UserError("A stack that sees both ways cannot continue a text.")


class WithinWords(nn.Module):
    """A stack that sees one word: the symbol or BOS before it, and its bytes. Words of an encoder that masks.

    `length`: positions of the word that FLOPs are counted with.
    """

    stack: nn.Module
    length: float
    symbol: int = 256

    @property
    def d_model(self):
        """Width."""
        return self.stack.d_model

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """Returns (y_BLD, ())."""
        start_BL = (tokens_BL == self.symbol) | segment_starts(segment_ids_BL)
        word_BL = jnp.where(segment_ids_BL > 0, jnp.cumsum(start_BL, axis=1, dtype=jnp.int32), 0)
        return self.stack(x_BLD, tokens_BL, word_BL)

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per position, by part."""
        return self.stack.flops(min(length, self.length))


def flat_encoder(tokenizer, layers, d_model, d_ff, n_heads):
    """A transformer over all tokens of `tokenizer` and a mask, in both directions, and the token at every position."""
    stack = TwoWay(f"T{layers}", d_model, d_ff, n_heads=n_heads, rotary_dim=d_model // n_heads // 2)
    return LanguageModel(tokenizer.vocab_size + 1, stack)
