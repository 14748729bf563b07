"""Whole backbones from a few numbers, as the papers write them down."""

from lmlab.errors import UserError
from lmlab.models.chunkers import FixedStride, LearnedChunker, Whitespace
from lmlab.models.hierarchy import Hierarchy
from lmlab.models.patches import Patches, PatchEmbedding, PatchSlices
from lmlab.models.pool import Select
from lmlab.models.positions import LearnedPositions
from lmlab.models.qk_norm import QKNormStack
from lmlab.models.segments import StraightThroughMean
from lmlab.models.stack import Stack, height
from lmlab.models.transformer_xl import TransformerXL
from lmlab.models.unpool import Add, AddAtStarts, Smooth
from lmlab.models.within import WithinChunks


def mlp_width(d_model):
    """SwiGLU width of 8/3 d, rounded up to a multiple of 128."""
    return -(-8 * d_model // (3 * 128)) * 128


def transformer(layers, d_model, d_ff=None, n_heads=16, window=None, letter="T"):
    """Decoder-only stack of `layers` blocks; rotary on half of each head, as in H-Net's configurations."""
    return Stack(
        f"{letter}{layers}",
        d_model,
        d_ff or mlp_width(d_model),
        n_heads=n_heads,
        rotary_dim=d_model // n_heads // 2,
        window=window,
    )


def hierarchy(
    layout,
    d_model,
    d_ff,
    n_heads=16,
    window=1024,
    d_state=128,
    target=6.0,
    capacity=None,
    chunker=LearnedChunker,
    pool=Select,
    unpool=Smooth,
):
    """H-Net's nested layout, [encoder, inner, decoder] down to [main], to a `Hierarchy`.

    `d_model`, `d_ff`: one per stage, from the outside in. `n_heads`, `window`, `target`, `capacity`: one for all
    stages, or one per stage; exact capacities, a tuple themselves, only per stage: ((1.5, 2.5), None). `window` keys are seen by the attention of outer stages; the innermost sees all.
    `chunker`: (width, target) -> chunker; `pool`, `unpool`: width -> part.
    """
    stages = len(d_model)
    for name, value in dict(d_ff=d_ff, n_heads=n_heads, window=window, target=target, capacity=capacity).items():
        if isinstance(value, (tuple, list)) and len(value) != stages:
            raise UserError(f"{name} {value!r} is not one value per stage: there are {stages} stages.")
    n_heads, window, target, capacity = [
        tuple(v) if isinstance(v, (tuple, list)) else (v,) * stages for v in (n_heads, window, target, capacity)
    ]

    def build(layout, s, outer):
        heads, width = n_heads[s], d_model[s]
        attention = dict(n_heads=heads, rotary_dim=width // heads // 2, d_state=d_state)
        if len(layout) == 1:
            return Stack(layout[0], width, d_ff[s], depth=outer + height(layout[0]), **attention)
        if len(layout) != 3 or s + 1 >= stages:
            raise UserError(f"Layout {layout!r} does not nest as [encoder, [inner], decoder] over {stages} widths.")
        depth = outer + height(layout[0]) + height(layout[2])
        outside = [Stack(layout[i], width, d_ff[s], window=window[s], depth=depth, **attention) for i in (0, 2)]
        return Hierarchy(
            encoder=outside[0],
            chunker=chunker(width, target[s]),
            pool=pool(width),
            inner=build(layout[1], s + 1, depth),
            unpool=unpool(width),
            decoder=outside[1],
            capacity=capacity[s],
        )

    return build(layout, 0, 0)


def qk_norm(n_layers, d_model, length=None, d_head=64, window=None, normed=False):
    """SpaceByte's blocks, with learned positions for `length` positions if given."""
    stack = QKNormStack(n_layers, d_model, 4 * d_model, d_model // d_head, window, normed)
    return LearnedPositions(stack, length) if length else stack


def megabyte(n_layers, d_model, patch, length, d_head=64, capacity=None):
    """MegaByte in SpaceByte's blocks. `n_layers`, `d_model`: global and local; `length`: positions of a row."""
    return Hierarchy(
        encoder=PatchEmbedding(256, d_model[1], d_model[0] // patch),
        chunker=FixedStride(patch),
        pool=Patches(d_model[0], patch),
        inner=qk_norm(n_layers[0], d_model[0], -(-length // patch), d_head),
        unpool=PatchSlices(d_model[0], patch, d_model[1]),
        decoder=WithinChunks(qk_norm(n_layers[1], d_model[1], patch, d_head, normed=True), patch),
        capacity=capacity,
    )


def spacebyte(n_layers, d_model, length, bytes_per_word, d_head=64, window=None, capacity=None):
    """SpaceByte as released. `n_layers`: before, at and behind the words; `d_model`: global and local; `length`: positions
    of a row; `window`: of the local blocks, None for their width."""
    window = window or d_model[1]
    return Hierarchy(
        encoder=qk_norm(n_layers[0], d_model[1], length, d_head, window),
        chunker=Whitespace(bytes_per_word),
        pool=Select(d_model[1]),
        inner=qk_norm(n_layers[1], d_model[0], length, d_head),
        unpool=AddAtStarts(d_model[1]),
        decoder=qk_norm(n_layers[2], d_model[1], None, d_head, window, normed=True),
        capacity=capacity,
    )


def hourglass(n_layers, d_model, d_ff, n_heads, chunker, pool=StraightThroughMean, capacity=None):
    """Dynamic token pooling. `n_layers`: before, within and behind the segments; `pool`: width -> part."""
    before, within, behind = (TransformerXL(n, d_model, d_ff, n_heads) for n in n_layers)
    return Hierarchy(
        encoder=before,
        chunker=chunker,
        pool=pool(d_model),
        inner=within,
        unpool=Add(d_model),
        decoder=behind,
        capacity=capacity,
    )
