"""NextLevelBERT (Czinczoll et al. 2024, arXiv 2402.17682): a transformer over the vectors of chunks of text, some of
which are hidden from it and to be predicted."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.elementwise import embed, linear
from lmlab.models.chunkers import segment_starts
from lmlab.models.language_model import Output
from lmlab.models.layers import normal, parameter
from lmlab.models.two_way import TwoWay

EPS = 1e-5  # added to variances of vectors


class Hidden(NamedTuple):
    """Vectors of chunks, some hidden from who predicts them."""

    vectors_BCD: jax.Array  # float32; no gradient passes
    predicted_BCD: jax.Array  # float32
    hidden_BC: jax.Array  # bool: not seen


class NextLevel(nn.Module):
    """An encoder that names hidden tokens, and a transformer above that predicts hidden chunks. A chunk is `chunk`
    positions of a row; `encoder` sees one chunk, `upper` the vectors of all chunks of a document.

    A chunk's vector is the mean of its positions' states, made to have mean 0 and variance 1. Where documents meet in a
    chunk it is that of the last of them. The vectors are data to the upper transformer: its loss does not move them.
    """

    vocab_size: int
    encoder: TwoWay
    upper: TwoWay
    chunk: int
    share: float = 0.15  # of a row's chunks that are hidden, one at least

    def setup(self):
        V, D = self.vocab_size, self.encoder.d_model
        self.embedding = parameter(self, "embedding", normal(1.0), (V, D), ("vocab", "embed"))
        self.head = parameter(self, "head", normal(0.02), (D, V), ("embed", "vocab"))
        self.mask = parameter(self, "mask", normal(1.0), (D,), (None,))
        self.out1 = parameter(self, "out1", normal(D**-0.5), (D, D), ("embed", None))
        self.out2 = parameter(self, "out2", normal(D**-0.5), (D, D), (None, "embed"))

    def chunks_of(self, tokens_BL, segment_ids_BL):
        """(states [B, L, D], vectors [B, C, D], number of the document of each chunk [B, C], 0 for none). The last
        chunk may be shorter."""
        (B, L), n = tokens_BL.shape, self.chunk
        start_BL = (jnp.arange(L) % n == 0) | segment_starts(segment_ids_BL)
        span_BL = jnp.where(segment_ids_BL > 0, jnp.cumsum(start_BL, axis=1, dtype=jnp.int32), 0)
        h_BLD = self.encoder(embed(self.embedding, tokens_BL), tokens_BL, span_BL)[0]
        whole = lambda x: jnp.pad(x, ((0, 0), (0, -L % n)) + ((0, 0),) * (x.ndim - 2))  # noqa: E731
        segment_BCn = whole(segment_ids_BL).reshape(B, -1, n)
        segment_BC = jnp.max(segment_BCn, axis=2)
        own_BCn = (segment_BCn == segment_BC[..., None]) & (segment_BCn > 0)
        h_BCnD = whole(h_BLD).reshape(*own_BCn.shape, -1)
        v_BCD = jnp.sum(jnp.where(own_BCn[..., None], h_BCnD, 0.0), axis=2)
        v_BCD = v_BCD / jnp.maximum(1, jnp.sum(own_BCn, axis=2))[..., None]
        v_BCD = v_BCD - jnp.mean(v_BCD, axis=-1, keepdims=True)
        v_BCD = v_BCD * jax.lax.rsqrt(jnp.mean(v_BCD**2, axis=-1, keepdims=True) + EPS)
        return h_BLD, v_BCD, segment_BC

    def read(self, v_BCD, hidden_BC, segment_BC):
        """(states of the upper transformer, predicted vectors), both [B, C, D]; hidden vectors are not seen."""
        x_BCD = jnp.where(hidden_BC[..., None], self.mask.astype(jnp.float32), v_BCD)
        y_BCD = self.upper(x_BCD, None, segment_BC)[0]
        z_BCD = jax.nn.gelu(linear(y_BCD.astype(self.out1.dtype), self.out1))
        return y_BCD, linear(z_BCD, self.out2).astype(jnp.float32)

    def hidden_vectors(self, tokens_BL, segment_ids_BL):
        """`Hidden`, as many chunks of every row by the key "noise"."""
        _, v_BCD, segment_BC = self.chunks_of(tokens_BL, segment_ids_BL)
        v_BCD, count = jax.lax.stop_gradient(v_BCD), max(1, round(self.share * segment_BC.shape[1]))
        u_BC = jnp.where(segment_BC > 0, jax.random.uniform(self.make_rng("noise"), segment_BC.shape), -1.0)
        hidden_BC = (u_BC >= jnp.sort(u_BC, axis=1)[:, -count, None]) & (segment_BC > 0)
        return Hidden(v_BCD, self.read(v_BCD, hidden_BC, segment_BC)[1], hidden_BC)

    def __call__(self, tokens_BL, segment_ids_BL=None):
        """`language_model.Output` of the encoder of chunks alone. `segment_ids_BL`: see `LanguageModel`."""
        if segment_ids_BL is None:
            segment_ids_BL = jnp.ones_like(tokens_BL)
        h_BLD, v_BCD, segment_BC = self.chunks_of(tokens_BL, segment_ids_BL)
        if self.is_initializing():
            self.read(v_BCD, segment_BC > 0, segment_BC)
        return Output(linear(h_BLD.astype(self.head.dtype), self.head).astype(jnp.float32), ())

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per token by part; embedding and head as of `LanguageModel`. The encoder runs twice, over the text
        with words hidden and without, for the vectors."""
        D, n = self.encoder.d_model, self.chunk
        parts = {f"encoder/{k}": 2 * v for k, v in self.encoder.flops(min(length, n)).items()}
        parts |= {f"upper/{k}": v / n for k, v in self.upper.flops(max(1, length // n)).items()}
        io = 2 * self.vocab_size * D
        return {"embedding": io, **parts, "vectors": 4 * D * D / n, "head": io}


def next_level(tokenizer, chunk, d_model, n_heads, lower, upper):
    """The model for text of `tokenizer`, with words hidden. `lower`, `upper`: (layers, d_ff) of the two encoders."""

    def stack(layers, d_ff, longest=None):
        return TwoWay(f"T{layers}", d_model, d_ff, n_heads, rotary_dim=d_model // n_heads // 2, longest=longest)

    return NextLevel(tokenizer.vocab_size + 1, stack(*lower, chunk), stack(*upper), chunk)
