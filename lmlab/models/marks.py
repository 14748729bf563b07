"""Chunks whose places the bytes alone decide: a marker reads them once, before the hierarchy, for all of its stages.

What a stage deeper inside sees of the text are the bytes at its chunks' starts, too few for a rule about words or for a
language model. So the marker gives every byte a level, which travels with it: a chunk of stage s starts where the level
is above s.
"""

import flax.linen as nn
import jax.numpy as jnp

from lmlab.models.chunkers import AtTokens

BITS = 16  # of a marked token: the token; its level lies above


def marked(tokens, level):
    """Tokens that carry their level."""
    return tokens | level << BITS


class AtMarks(AtTokens):
    """A chunk of stage `stage` (0: outermost) wherever the level is above it."""

    stage: int
    positions_per_chunk: float

    def at(self, tokens):
        """Where a unit of this stage ends."""
        return tokens >> BITS > self.stage


class Marked(nn.Module):
    """A hierarchy over marked tokens, with the interface of one.

    `marker`: (tokens_BL, segment_ids_BL) -> (level_BL, auxiliary loss per target), with `init_cache`, `prefill` and
    `step` of a stack, which give levels.
    """

    marker: nn.Module
    backbone: nn.Module

    @property
    def d_model(self):
        """Width."""
        return self.backbone.d_model

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """The hierarchy's (y_BLD, stages), the marker's loss added to the outermost stage's."""
        level_BL, auxiliary = self.marker(tokens_BL, segment_ids_BL)
        y_BLD, (first, *deeper) = self.backbone(x_BLD, marked(tokens_BL, level_BL), segment_ids_BL, nominal, start_BL)
        return y_BLD, (first._replace(auxiliary=first.auxiliary + auxiliary), *deeper)

    @nn.nowrap
    def init_cache(self, batch, length):
        """Caches of both."""
        return {"marker": self.marker.init_cache(batch, length), "backbone": self.backbone.init_cache(batch, length)}

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache, start_BL=None):
        """Forward over right-padded prompts, with the caches after each."""
        level_BL, marker = self.marker.prefill(tokens_BL, valid_BL, cache["marker"])
        tokens_BL = marked(tokens_BL, level_BL)
        y_BLD, backbone = self.backbone.prefill(x_BLD, tokens_BL, valid_BL, cache["backbone"], start_BL)
        return y_BLD, {"marker": marker, "backbone": backbone}

    def step(self, x_BD, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One position for the active rows. `row_B`: see `Stack.step`."""
        level_B, marker = self.marker.step(tokens_B, cache["marker"], active_B, row_B)
        tokens_B = marked(tokens_B, level_B)
        y_BD, backbone = self.backbone.step(x_BD, tokens_B, cache["backbone"], active_B, row_B, start_B)
        return y_BD, {"marker": marker, "backbone": backbone}

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per position, by part."""
        marker = {f"marker/{k}": v for k, v in self.marker.flops(length).items()}
        return marker | self.backbone.flops(length, ratios)
