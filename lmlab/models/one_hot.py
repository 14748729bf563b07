"""Encoder-decoders without embeddings (Shaham & Levy 2021, arXiv 2008.09396): a byte is its one-hot vector."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.models.encoder_decoder import EncoderDecoder
from lmlab.models.layers import parameter
from lmlab.models.t5 import UNIT


class OneHot(EncoderDecoder):
    """`EncoderDecoder` whose vocabulary has no parameters: ids are one-hot vectors padded with zeros to the width, and the
    logits are the first numbers of the decoder's last state. Three learned scalars, for source, target and logits.

    The first two start at 1. The original code has sqrt(d), and norms behind its layers; here the norms are ahead, and a
    token at sqrt(d) would stay in the last state, which is the logits, as large as all that the layers add. The last starts
    at 1 / sqrt(d), for even predictions, has to grow far for uneven ones, and is learned in units of `UNIT`.
    """

    def setup(self):
        if self.vocab_size > self.decoder.d_model:
            raise UserError(f"One-hot vectors of {self.vocab_size} ids do not fit a width of {self.decoder.d_model}.")
        ones = nn.initializers.ones
        self.source_scale = parameter(self, "source_scale", ones, (1,), (None,))
        self.target_scale = parameter(self, "target_scale", ones, (1,), (None,))
        inverse = nn.initializers.constant(self.decoder.d_model**-0.5 / UNIT)
        self.logit_scale_in_units = parameter(self, "logit_scale_in_units", inverse, (1,), (None,))

    def embed_source(self, tokens):
        """[...] -> [..., D]."""
        return jax.nn.one_hot(tokens, self.decoder.d_model) * self.source_scale

    def embed_tokens(self, tokens):
        """[...] -> [..., D]; a negative id, which stands for nothing, is zero."""
        return jax.nn.one_hot(tokens, self.decoder.d_model) * self.target_scale

    def _logits(self, y):
        return y[..., : self.vocab_size].astype(jnp.float32) * (UNIT * self.logit_scale_in_units)

    @nn.nowrap
    def flops(self, source, target, ratios=()):
        """As `EncoderDecoder.flops`; nothing is spent on the vocabulary."""
        return super().flops(source, target, ratios) | {"embedding": 0, "head": 0}
