"""MANTa: bytes to blocks by a differentiable segmentation (Godey et al. 2022, arXiv 2212.07284).

A small transformer with a window says for every byte with what probability p it begins a block. The number of the block
of byte i is then a sum of Bernoulli variables, with mean mu_i = sum of p and variance sum of p (1 - p) up to i, and is
taken for normal: byte i belongs to block b with probability proportional to exp(-(b - mu_i)^2 / (2 sigma_i^2)).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.biased_attention import MASKED
from lmlab.kernels.elementwise import embed, linear
from lmlab.models.layers import normal, parameter
from lmlab.models.t5 import EncoderBlock, RelativeBias, same_segment

EPS = 1e-4  # added to variances, in squared blocks


class Frontiers(NamedTuple):
    """What was found about a batch of sources."""

    probability_BS: jax.Array  # float32: p, 0 at the first byte and in padding
    lost: jax.Array  # float32 scalar: bytes, by their share, whose blocks are cut off


def block_assignment(p_BS, valid_BS, blocks):
    """P(byte i in block b), [B, S, blocks], and which blocks there are, [B, blocks].

    Normalised over all blocks up to mu + 3 sigma of the last byte; of these the first `blocks` are returned, so that
    the rows of a text with more sum to less than 1: that alone makes the model compress. Padding belongs nowhere.
    """
    S = p_BS.shape[1]
    mu_BS, variance_BS = jnp.cumsum(p_BS, axis=1), jnp.cumsum(p_BS * (1 - p_BS), axis=1) + EPS
    last_B = jnp.floor(mu_BS[:, -1] + 3 * jnp.sqrt(variance_BS[:, -1]))
    number_N = jnp.arange(max(S, blocks))
    inside_BN = number_N <= last_B[:, None]
    score_BSN = -((number_N - mu_BS[..., None]) ** 2) / (2 * variance_BS[..., None])
    share_BSN = jax.nn.softmax(jnp.where(inside_BN[:, None], score_BSN, MASKED), axis=-1)
    return jnp.where(valid_BS[..., None], share_BSN, 0.0)[..., :blocks], inside_BN[:, :blocks]


def pooled(features_BSD, share_BSN):
    """The mean over each block, every byte by its share: [B, N, D]. The paper takes the maximum; the mean is exact for
    sharp frontiers, and one product."""
    total_BN = jnp.sum(share_BSN, axis=1)
    return jnp.einsum("bsn,bsd->bnd", share_BSN, features_BSD) / jnp.maximum(total_BN, 1e-6)[..., None]


class MANTa(nn.Module):
    """A front (see `lmlab.models.gbst`): bytes to at most ceil(L / `factor`) blocks. It embeds bytes by itself, narrowly."""

    vocab_size: int
    d_model: int  # of the blocks
    d_byte: int = 64
    layers: int = 1
    n_heads: int = 8
    window: int = 16  # bytes that the frontier predictor sees around each, itself included
    kernel: int = 3
    factor: int = 4

    def setup(self):
        d = self.d_byte
        self.embedding = parameter(self, "embedding", normal(1.0), (self.vocab_size, d), ("vocab", "embed"))
        self.relative = RelativeBias(self.n_heads, True)
        self.blocks = [EncoderBlock(d, 4 * d, self.n_heads, d // self.n_heads) for _ in range(self.layers)]
        self.frontier = parameter(self, "frontier", normal(d**-0.5), (d, 1), ("embed", None))
        # Frontiers start where the text just fits.
        start = jnp.log(1 / (self.factor - 1))
        self.bias = parameter(self, "bias", nn.initializers.constant(start), (1,), (None,))
        self.conv = parameter(self, "conv", normal(self.kernel**-0.5), (self.kernel, 1, d), (None, None, "embed"))
        self.out = parameter(self, "out", normal(d**-0.5), (d, self.d_model), (None, "embed"))

    def _probability(self, x_BSD, segment_ids_BS):
        S = x_BSD.shape[1]
        distance = jnp.arange(S)[None] - jnp.arange(S)[:, None]
        near = (distance >= -(self.window // 2)) & (distance < self.window - self.window // 2)
        seen, bias = same_segment(segment_ids_BS, segment_ids_BS) & near, self.relative(S, S)
        for block in self.blocks:
            x_BSD = block(x_BSD, bias, seen)
        x_BSD = x_BSD * jax.lax.rsqrt(jnp.mean(x_BSD**2, axis=-1, keepdims=True) + 1e-6)
        logit_BS = (x_BSD @ self.frontier.astype(jnp.float32))[..., 0] + self.bias.astype(jnp.float32)
        first = jnp.arange(S) == 0
        return jnp.where((segment_ids_BS > 0) & ~first, nn.sigmoid(logit_BS), 0.0)

    def __call__(self, x_BSD, tokens_BS, segment_ids_BS):
        """([B, blocks, d_model], segment ids, `Frontiers`)."""
        valid_BS = segment_ids_BS > 0
        e_BSD = jnp.where(valid_BS[..., None], embed(self.embedding, tokens_BS), 0)
        p_BS = self._probability(e_BSD.astype(jnp.float32), segment_ids_BS)
        share_BSN, there_BN = block_assignment(p_BS, valid_BS, self.states(tokens_BS.shape[1]))
        features_BSD = jax.lax.conv_general_dilated(
            e_BSD.astype(self.conv.dtype),
            self.conv.astype(self.conv.dtype),
            (1,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.d_byte,
        )
        z_BND = linear(pooled(features_BSD.astype(jnp.float32), share_BSN).astype(self.out.dtype), self.out)
        lost = jnp.sum(valid_BS) - jnp.sum(share_BSN)
        there_BN &= valid_BS.any(axis=1, keepdims=True)
        return z_BND.astype(jnp.float32), there_BN.astype(jnp.int32), Frontiers(p_BS, lost)

    @property
    def d_source(self):
        """Width of its own embedding, the only one of the source that is read."""
        return self.d_byte

    @nn.nowrap
    def states(self, positions):
        """Blocks there is room for."""
        return -(-positions // self.factor)

    @nn.nowrap
    def flops(self, positions):
        """Forward FLOPs of a row: predictor (a window of keys), assignment, pooling, projection."""
        d, blocks = self.d_byte, self.states(positions)
        layer = 8 * d**2 + 4 * d * self.window + 3 * self.n_heads * self.window + 24 * d**2
        assignment = positions * positions * 6 + 2 * positions * blocks * d
        return positions * (self.layers * layer + 2 * d * (1 + self.kernel)) + assignment + 2 * blocks * d * self.d_model
