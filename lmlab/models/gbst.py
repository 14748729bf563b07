"""Encoders that read fewer, softly pooled positions: Charformer's GBST (arXiv 2106.12672) and its plain counterpart.

A front maps embedded bytes to a sequence shorter by a fixed factor. It looks to both sides and so is for encoders only,
with one example per row. Padding takes no part in any mean, which the original does not see to.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.biased_attention import MASKED
from lmlab.models.encoder_decoder import Encoder
from lmlab.models.layers import normal, parameter


def block_means(x_BLD, valid_BL, width):
    """The mean of each block of `width` positions, padding left out: [B, ceil(L / width), D], 0 for empty blocks."""
    B, L, D = x_BLD.shape
    extra = -L % width
    x = jnp.pad(jnp.where(valid_BL[..., None], x_BLD, 0), ((0, 0), (0, extra), (0, 0))).reshape(B, -1, width, D)
    count = jnp.pad(valid_BL, ((0, 0), (0, extra))).reshape(B, -1, width).sum(axis=2)
    return x.sum(axis=2) / jnp.maximum(count, 1)[..., None]


def candidates(x_BLD, valid_BL, widths):
    """At each position, the mean of the block of each width that it lies in: [B, L, W, D]."""
    L = x_BLD.shape[1]
    blocks = [jnp.repeat(block_means(x_BLD, valid_BL, w), w, axis=1)[:, :L] for w in widths]
    return jnp.stack(blocks, axis=2)


def calibrated(scores_BLW, valid_BL):
    """softmax(S S^T) S over positions: equal scores draw on one another (section 2.1.4). Of raw scores, as in the original
    code; the paper writes it for their softmax."""
    similar_BLM = jnp.einsum("blw,bmw->blm", scores_BLW, scores_BLW)
    return jax.nn.softmax(jnp.where(valid_BL[:, None], similar_BLM, MASKED), axis=-1) @ scores_BLW


class MeanPool(nn.Module):
    """A convolution over `kernel` bytes, then the mean of every `downsample` positions."""

    d_model: int
    downsample: int = 2
    kernel: int = 5

    def setup(self):
        D = self.d_model
        std = (self.kernel * D) ** -0.5
        self.conv = parameter(self, "conv", normal(std), (self.kernel, D, D), (None, "embed", None))

    def _convolved(self, x_BLD, valid_BL):
        x_BLD = jnp.where(valid_BL[..., None], x_BLD, 0).astype(self.conv.dtype)
        kernel, layout = self.conv.astype(x_BLD.dtype), ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(x_BLD, kernel, (1,), "SAME", dimension_numbers=layout).astype(jnp.float32)

    def _mixed(self, x_BLD, valid_BL):
        return x_BLD

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL):
        """([B, ceil(L / downsample), D], segment ids, None)."""
        valid_BL = segment_ids_BL > 0
        x_BLD = self._mixed(self._convolved(x_BLD, valid_BL), valid_BL)
        ids_BS = jnp.pad(segment_ids_BL, ((0, 0), (0, -segment_ids_BL.shape[1] % self.downsample)))
        ids_BS = ids_BS.reshape(len(ids_BS), -1, self.downsample).max(axis=2)
        return block_means(x_BLD, valid_BL, self.downsample), ids_BS, None

    @property
    def d_source(self):
        """Width of the embedding that it reads."""
        return self.d_model

    @nn.nowrap
    def states(self, positions):
        """How many positions are left."""
        return -(-positions // self.downsample)

    @nn.nowrap
    def flops(self, positions):
        """Forward FLOPs of a row."""
        return positions * (2 * self.kernel * self.d_model**2 + self.d_model)


class GBST(MeanPool):
    """Gradient-based subword tokenization: blocks of each of `widths`, scored by a projection per width without bias, mixed
    at every position by the softmax of the scores, and pooled."""

    widths: tuple[int, ...] = (1, 2, 3, 4)
    calibrate: bool = False  # see `calibrated`

    def setup(self):
        super().setup()
        shape = (len(self.widths), self.d_model)
        self.score = parameter(self, "score", normal(self.d_model**-0.5), shape, (None, "embed"))

    def _mixed(self, x_BLD, valid_BL):
        blocks_BLWD = candidates(x_BLD, valid_BL, self.widths)
        scores_BLW = jnp.einsum("blwd,wd->blw", blocks_BLWD, self.score.astype(jnp.float32))
        if self.calibrate:
            scores_BLW = calibrated(scores_BLW, valid_BL)
        return jnp.einsum("blw,blwd->bld", jax.nn.softmax(scores_BLW, axis=-1), blocks_BLWD)

    @nn.nowrap
    def flops(self, positions):
        """Convolution and pooling, then per width means, scores and mixture; calibration compares all positions."""
        W = len(self.widths)
        total = super().flops(positions) + positions * 5 * W * self.d_model
        return total + (positions**2 * (4 * W + 3) if self.calibrate else 0)


class PooledEncoder(Encoder):
    """`Encoder` behind a front that shortens what it reads; cross-attention sees the shortened states."""

    front: nn.Module | None = None

    @property
    def d_source(self):
        """The front's."""
        return self.front.d_source

    def __call__(self, x_BSD, tokens_BS, segment_ids_BS):
        """`Encoded`, whose `found` is the front's."""
        x_BCD, segment_ids_BC, found = self.front(x_BSD.astype(jnp.float32), tokens_BS, segment_ids_BS)
        return super().__call__(x_BCD, None, segment_ids_BC)._replace(found=found)

    @nn.nowrap
    def flops(self, positions, ratios=()):
        """As `Encoder.flops`, of the front's states."""
        parts, states = super().flops(self.front.states(positions))
        return {"front": self.front.flops(positions), **parts}, states
