"""Lexinvariant language models (Huang et al. 2023, arXiv 2305.16349): tokens have no vectors of their own.

In training every row draws a vector for each token anew, reads by them and writes by them, so that all that a model can know
is which tokens are the same. What it has learned does not depend on the vectors: evaluation and decoding take one draw.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.dispatch import by_positions
from lmlab.kernels.elementwise import embed, linear
from lmlab.models.language_model import LanguageModel, Output
from lmlab.models.layers import normal, parameter


class Lexinvariant(LanguageModel):
    """A language model in which each row draws the vectors of a `share` of the tokens: E ~ N(0, I / D), logits h W E^T.

    The share is chosen anew with them; other tokens have learned vectors, and without draws, as in evaluation, all tokens do
    unless `share` is 1: then their vectors are the draw number `draw`. W, which a paper's tied head lacks, keeps the token
    that was just read from being the likeliest at the start.
    UserError for a share outside of [0, 1].
    """

    share: float = 1.0
    draw: int = 0

    def setup(self):
        if not 0 <= self.share <= 1:
            raise UserError(f"The share of tokens with drawn vectors lies between 0 and 1; it is {self.share}.")
        D = self.backbone.d_model
        if self.share < 1:
            self.embedding = parameter(self, "embedding", normal(D**-0.5), (self.vocab_size, D), ("vocab", "embed"))
        self.out = parameter(self, "out", normal(0.02), (D, D), ("embed", None))

    def _drawn(self, key, *shape):
        return jax.random.normal(key, (*shape, self.backbone.d_model)) * self.backbone.d_model**-0.5

    def vectors(self):
        """The vectors that do not depend on a row, [V, D]."""
        return self._drawn(jax.random.key(self.draw), self.vocab_size) if self.share == 1 else self.embedding

    def _vectors_of(self, rows):
        """Of each row, [B, V, D]: with what is drawn in training."""
        which, what = jax.random.split(self.make_rng("noise"))
        drawn = self._drawn(what, rows, self.vocab_size)
        if self.share == 1:
            return drawn
        is_drawn = jax.random.bernoulli(which, self.share, (rows, self.vocab_size, 1))
        return jnp.where(is_drawn, drawn, self.embedding.astype(drawn.dtype))

    def embed_tokens(self, tokens):
        """[...] -> [..., D]."""
        return embed(self.vectors(), tokens)

    def _queries(self, y):
        return linear(y.astype(self.out.dtype), self.out)

    def _logits(self, y):
        query = self._queries(y)
        return linear(query, self.vectors().T.astype(query.dtype)).astype(jnp.float32)

    def __call__(self, tokens_BL, segment_ids_BL=None):
        """As `LanguageModel`; vectors are drawn where there is an rng "noise"."""
        if not self.share or not self.has_rng("noise"):
            return super().__call__(tokens_BL, segment_ids_BL)
        if segment_ids_BL is None:
            segment_ids_BL = jnp.ones_like(tokens_BL)
        vectors_BVD = self._vectors_of(len(tokens_BL))
        x_BLD = by_positions(jnp.take_along_axis(vectors_BVD, tokens_BL[..., None], axis=1))
        y_BLD, stages = self.backbone(x_BLD, tokens_BL, segment_ids_BL)
        query_BLD = self._queries(y_BLD)
        logits_BLV = jnp.einsum("bld,bvd->blv", query_BLD, vectors_BVD.astype(query_BLD.dtype))
        return Output(logits_BLV.astype(jnp.float32), stages)

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per token by part."""
        parts = super().flops(length, ratios)
        return parts | {"head": parts["head"] + 2 * self.backbone.d_model**2}
