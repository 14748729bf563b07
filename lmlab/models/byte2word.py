"""Byte2Word (arXiv 2211.12677): a word's vector by attention over its bytes, its subwords from its vector in context."""

import flax.linen as nn
import jax.numpy as jnp

from lmlab.kernels.dispatch import gather, spread
from lmlab.models.hierarchy import Hierarchy
from lmlab.models.language_model import LanguageModel
from lmlab.models.layers import normal, parameter
from lmlab.models.pool import CrossAttention
from lmlab.models.positions import LearnedPositions
from lmlab.models.stack import Stack
from lmlab.models.two_way import TwoWay, WithinWords
from lmlab.models.words import AtSymbol


class ToSpan(nn.Module):
    """A chunk's vector at every position of the span that it was pooled from, and nothing else there: what a word's
    subwords are read off. Looks ahead, by all but the span's last position. Nothing behind a row's last chunk."""

    d_model: int

    def __call__(self, z_BCD, h_BLD, routing, c, segment_ids_BL):
        """[B, C, D], [B, L, D] -> [B, L, D] float32."""
        kept_BL = c.kept_BL.astype(jnp.int32)
        before_BL = jnp.cumsum(kept_BL, axis=1) - kept_BL  # starts before t: the chunk whose span t lies in
        ended_BL = before_BL < jnp.sum(kept_BL, axis=1, keepdims=True)
        slot_BL = jnp.minimum(before_BL, c.index_BC.shape[1] - 1)
        own_BL = jnp.take_along_axis(gather(segment_ids_BL, c), slot_BL, axis=1) == segment_ids_BL
        z_BLD = spread(z_BCD.astype(jnp.float32), c._replace(slot_BL=slot_BL))
        return jnp.where((ended_BL & own_BL)[..., None], z_BLD, 0.0)

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """No arithmetic worth counting."""
        return 0


class ReadsAndWrites(LanguageModel):
    """A `LanguageModel` that reads the ids of one vocabulary and writes those of another, of `written` ids."""

    written: int = 0

    def setup(self):
        D = self.backbone.d_model
        self.embedding = parameter(self, "embedding", normal(1.0), (self.vocab_size, D), ("vocab", "embed"))
        self.head = parameter(self, "head", normal(0.02), (D, self.written), ("embed", "vocab"))

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per token by part, as of `LanguageModel`."""
        D = self.backbone.d_model
        return super().flops(length, ratios) | {"embedding": 2 * self.vocab_size * D, "head": 2 * self.written * D}


def byte2word(tokenizer, d_model, d_ff, n_heads, layers, last=1, capacity=None):
    """The model for the text of `tokenizer`, a `WordsOfSubwords`, with words hidden: not causal.

    Byte and position embeddings; one learned query per head over each word; `layers` over words, in both directions; then
    the word's vector and a position's embedding at each place of the word, and `last` layers within the word.
    """
    positions, longest = tokenizer.bytes_per_word + 1, tokenizer.max_bytes + 1

    def stack(layers, longest=None):
        return TwoWay(f"T{layers}", d_model, d_ff, n_heads=n_heads, rotary_dim=d_model // n_heads // 2, longest=longest)

    def within(stack):
        return WithinWords(LearnedPositions(stack, longest), positions)

    backbone = Hierarchy(
        encoder=within(Stack("T0", d_model)),
        chunker=AtSymbol(positions),
        pool=CrossAttention(d_model, n_heads),
        inner=stack(layers),
        unpool=ToSpan(d_model),
        decoder=within(stack(last, longest)),
        capacity=capacity,
    )
    return ReadsAndWrites(tokenizer.vocab_size + 1, backbone, written=tokenizer.subwords.vocab_size)
