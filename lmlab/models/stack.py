"""Isotropic stacks: residual blocks named by a layer string such as "m4", "T22" or "T1m4".

m = Mamba-2, M = Mamba-2 + SwiGLU, t = attention, T = attention + SwiGLU; the number repeats the letter
(H-Net, arXiv 2507.07955; strings as in its released configurations).
"""

import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.dispatch import by_positions
from lmlab.models.attention import Attention
from lmlab.models.layers import RMSNorm, SwiGLU
from lmlab.models.mamba2 import Mamba2

SCANNED = 8  # equal blocks in a row from which on they are compiled once; for fewer, unrolled is as fast to compile


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
        return by_positions(self.add(x_BLD, self.mixer(self.read(x_BLD), segment_ids_BL)))

    def prefill(self, x_BLD, valid_BL, cache):
        """Forward over right-padded prompts, with the cache after each."""
        mixed, cache = self.mixer.prefill(self.read(x_BLD), valid_BL, cache)
        return self.add(x_BLD, mixed), cache

    def step(self, x_BD, cache, active_B, row_B=None):
        """One position."""
        mixed, cache = self.mixer.step(self.read(x_BD), cache, active_B, row_B)
        return self.add(x_BD, mixed), cache

    def branch(self, x_ND, cache, leaves):
        """New leaves of the trees in the cache."""
        mixed, cache = self.mixer.branch(self.read(x_ND), cache, leaves)
        return self.add(x_ND, mixed), cache


class Blocks(nn.Module):
    """Blocks in sequence, and a norm behind the last if any: [B, L, D] -> [B, L, D], float32 residual stream.

    This is the interface of every encoder, decoder and innermost network of a hierarchy. They are told more than a
    stack looks at: the tokens; `nominal`, see `Hierarchy.slots`; and, as decoders, `start_BL`, where the chunks around
    them start. Which blocks and which norm, `blocks` and `last_norm` of a subclass say.
    """

    def setup(self):
        self.layers = self.blocks()
        self.norm = self.last_norm()

    def _grouped(self):
        """What a forward pass goes through: the layers, or several as one."""
        return self.layers

    def _through(self, x, run, layers, caches):
        """(output, new caches) of `layers` in sequence; `run(layer, x, cache)` gives (x, cache) behind one."""
        new, x = [], x.astype(jnp.float32)
        for layer, cache in zip(layers, caches, strict=True):
            x, cache = run(layer, x, cache)
            new.append(cache)
        return x if self.norm is None else self.norm(x), new

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """Returns (y_BLD, stages); a stack has no stages."""
        layers, x_BLD = self._grouped(), by_positions(x_BLD)
        none = [None] * len(layers)
        return self._through(x_BLD, lambda layer, x, cache: (layer(x, segment_ids_BL), cache), layers, none)[0], ()

    @nn.nowrap
    def init_cache(self, batch, length):
        """One cache per layer."""
        return [block.mixer.init_cache(batch, length) for block in self.blocks()]

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache, start_BL=None):
        """Forward over right-padded prompts, with the caches after each."""
        return self._through(x_BLD, lambda layer, x, cache: layer.prefill(x, valid_BL, cache), self.layers, cache)

    def step(self, x_BD, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One position for the active rows. `row_B`: rows of the cache that they are; None: all, in order."""
        return self._through(x_BD, lambda layer, x, cache: layer.step(x, cache, active_B, row_B), self.layers, cache)

    @nn.nowrap
    def can_branch(self):
        """Whether there is `branch`: of attention without windows alone."""
        return all(isinstance(block.mixer, Attention) and block.mixer.can_branch() for block in self.blocks())

    def branch(self, x_ND, cache, leaves):
        """`Leaves` of the trees in the caches: [N, D] -> ([N, D], caches)."""
        return self._through(x_ND, lambda layer, x, cache: layer.branch(x, cache, leaves), self.layers, cache)

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
    """Blocks named by a layer string, and a final RMSNorm, if any.

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
    rotary_base: float = 10_000.0
    final_norm: bool = True

    @nn.nowrap
    def _mixer(self, letter, out_std):
        if letter in "tT":
            attention = (self.d_model, self.n_heads, self.rotary_dim, self.window, out_std, self.rotary_base)
            return Attention(*attention, parent=None)
        return Mamba2(self.d_model, d_state=self.d_state, out_std=out_std, parent=None)

    @nn.nowrap
    def _block(self, letter, **fields):
        out_std = 0.02 / (self.depth or height(self.layout)) ** 0.5
        mixer = self._mixer(letter, out_std)
        mlp = SwiGLU(self.d_model, self.d_ff, out_std, parent=None) if letter.isupper() else None
        return (nn.remat(Block) if self.remat else Block)(self.d_model, mixer, mlp, **fields)

    @nn.nowrap
    def blocks(self):
        """The layer string's."""
        return [self._block(letter) for letter in parse_layout(self.layout)]

    @nn.nowrap
    def last_norm(self):
        """Of what leaves the stack."""
        return RMSNorm(self.d_model) if self.final_norm else None

    def _grouped(self):
        if self.is_initializing():
            return self.layers
        rest, grouped = iter(self.layers), []
        for letter, alike in itertools.groupby(parse_layout(self.layout)):
            layers = [next(rest) for _ in alike]
            grouped += layers if len(layers) < SCANNED else [functools.partial(self._scanned, letter, layers)]
        return grouped

    def _scanned(self, letter, layers, x_BLD, segment_ids_BL):
        """Equal blocks in a row, compiled once: a step of 28 blocks compiles as fast as one of a few. It costs up to
        two float32 copies of their weights in a step: the weights, one behind the other, and their gradients likewise."""
        block = self._block(letter, parent=None)
        weights = jax.tree.map(lambda *w: jnp.stack(w), *[layer.variables for layer in layers])
        return jax.lax.scan(lambda x, w: (block.apply(w, x, segment_ids_BL), None), x_BLD, weights)[0]
