"""Isotropic stacks: residual blocks named by a layer string such as "m4", "T22" or "T1m4".

m = Mamba-2, M = Mamba-2 + SwiGLU, t = attention, T = attention + SwiGLU; the number repeats the letter
(H-Net, arXiv 2507.07955; strings as in its released configurations).
"""

import re

import flax.linen as nn
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.models.attention import Attention
from lmlab.models.layers import RMSNorm, SwiGLU
from lmlab.models.mamba2 import Mamba2


def parse_layout(layout):
    """"T1m4" -> ["T", "m", "m", "m", "m"]."""
    if not re.fullmatch(r"([mMtT][0-9]+)+", layout):
        raise UserError(f"Layer string {layout!r} is not a sequence of m, M, t or T, each with a count, such as T1m4.")
    return [letter for letter, n in re.findall(r"([mMtT])([0-9]+)", layout) for _ in range(int(n))]


def height(layout):
    """Residual additions in a stack: one per mixer and one per MLP."""
    return sum(2 if letter.isupper() else 1 for letter in parse_layout(layout))


class Block(nn.Module):
    """Pre-norm residual block: x + mixer(norm(x)), then x + mlp(norm(x)) if there is an MLP."""

    d_model: int
    mixer: nn.Module
    mlp: nn.Module | None = None

    def setup(self):
        self.norm1 = RMSNorm(self.d_model)
        if self.mlp is not None:
            self.norm2 = RMSNorm(self.d_model)

    def read(self, x):
        """What the mixer reads."""
        return self.norm1(x)

    def add(self, x, mixed):
        """The block's output: the mixer's added, then the MLP's."""
        x = x + mixed
        return x if self.mlp is None else x + self.mlp(self.norm2(x))

    def __call__(self, x_BLD, segment_ids_BL):
        """[B, L, D] -> [B, L, D]."""
        return self.add(x_BLD, self.mixer(self.read(x_BLD), segment_ids_BL))

    def prefill(self, x_BLD, valid_BL, cache):
        """Forward over right-padded prompts, with the cache after each."""
        mixed, cache = self.mixer.prefill(self.read(x_BLD), valid_BL, cache)
        return self.add(x_BLD, mixed), cache

    def step(self, x_BD, cache, active_B, row_B=None):
        """One position."""
        mixed, cache = self.mixer.step(self.read(x_BD), cache, active_B, row_B)
        return self.add(x_BD, mixed), cache


class Blocks(nn.Module):
    """Blocks in sequence and a final norm: [B, L, D] -> [B, L, D], float32 residual stream.

    This is the interface of every encoder, decoder and innermost network of a hierarchy. They are told more than a stack
    looks at: the tokens; `nominal`, see `Hierarchy.slots`; and, as decoders, `start_BL`, where the chunks around them
    start. Which blocks and which norm, `blocks` and `final_norm` of a subclass say.
    """

    def setup(self):
        self.layers = self.blocks()
        self.norm = self.final_norm()

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """Returns (y_BLD, stages); a stack has no stages."""
        x_BLD = x_BLD.astype(jnp.float32)
        for layer in self.layers:
            x_BLD = layer(x_BLD, segment_ids_BL)
        return self.norm(x_BLD), ()

    @nn.nowrap
    def init_cache(self, batch, length):
        """One cache per layer."""
        return [block.mixer.init_cache(batch, length) for block in self.blocks()]

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache, start_BL=None):
        """Forward over right-padded prompts, with the caches after each."""
        new, x_BLD = [], x_BLD.astype(jnp.float32)
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x_BLD, layer_cache = layer.prefill(x_BLD, valid_BL, layer_cache)
            new.append(layer_cache)
        return self.norm(x_BLD), new

    def step(self, x_BD, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One position for the active rows. `row_B`: rows of the cache that they are; None: all, in order."""
        new, x_BD = [], x_BD.astype(jnp.float32)
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x_BD, layer_cache = layer.step(x_BD, layer_cache, active_B, row_B)
            new.append(layer_cache)
        return self.norm(x_BD), new

    def emptied(self, cache, empty_B, row_B=None):
        """The caches, with nothing seen in the rows `empty_B`."""
        return [layer.mixer.emptied(c, empty_B, row_B) for layer, c in zip(self.layers, cache, strict=True)]

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per position, by part, at sequence length `length`; a stack has no chunks."""
        total = {}
        for block in self.blocks():
            total[block.mixer.part] = total.get(block.mixer.part, 0) + block.mixer.flops(length)
            if block.mlp is not None:
                total["mlp"] = total.get("mlp", 0) + block.mlp.flops()
        return total


class Stack(Blocks):
    """Blocks named by a layer string, and a final RMSNorm.

    `depth` is the number of residual additions from the outside of the model down to this stack; output
    projections start at N(0, 0.02^2 / depth). None: the stack's own height.
    """

    layout: str
    d_model: int
    d_ff: int = 0
    n_heads: int = 16
    rotary_dim: int = 32
    window: int | None = None
    d_state: int = 128
    depth: int | None = None
    remat: bool = False

    @nn.nowrap
    def _block(self, letter):
        out_std = 0.02 / (self.depth or height(self.layout)) ** 0.5
        if letter in "tT":
            mixer = Attention(self.d_model, self.n_heads, self.rotary_dim, self.window, out_std, parent=None)
        else:
            mixer = Mamba2(self.d_model, d_state=self.d_state, out_std=out_std, parent=None)
        mlp = SwiGLU(self.d_model, self.d_ff, out_std, parent=None) if letter.isupper() else None
        return (nn.remat(Block) if self.remat else Block)(self.d_model, mixer, mlp)

    @nn.nowrap
    def blocks(self):
        """The layer string's."""
        return [self._block(letter) for letter in parse_layout(self.layout)]

    @nn.nowrap
    def final_norm(self):
        """Of what leaves the stack."""
        return RMSNorm(self.d_model)
