"""Whole backbones from a few numbers, as the papers write them down."""

from lmlab.errors import UserError
from lmlab.models.chunkers import FixedStride, LearnedChunker, Whitespace
from lmlab.models.hierarchy import Hierarchy
from lmlab.models.marks import AtMarks
from lmlab.models.patch_attention import PatchDecoder, PatchQueries, PatchVectors
from lmlab.models.patches import Patches, PatchEmbedding, PatchSlices
from lmlab.models.pool import Select
from lmlab.models.positions import LearnedPositions
from lmlab.models.qk_norm import QKNormStack
from lmlab.models.segments import StraightThroughMean
from lmlab.models.stack import Stack, height
from lmlab.models.transformer_xl import TransformerXL
from lmlab.models.transitions import Down, UpByMatrix
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


def blt(layers, d_model, d_ff, chunker, n_heads=16, window=512, longest=128, k=2, rotary_base=5e5, capacity=None):
    """BLT's local encoder, global transformer and local decoder (arXiv 2412.09871) around the chunks of `chunker`.

    `layers`: of the three; `d_model`, `d_ff`: local and global. Of a patch, which `k` vectors stand for, its last
    `longest` bytes are looked at. UserError unless the global width is k times the local one.
    """
    D, E = d_model
    if E != k * D:
        raise UserError(f"The global width is {k} times the local one, for a patch's {k} vectors: not {E} and {D}.")
    base = dict(n_heads=n_heads, rotary_base=rotary_base)
    local = dict(base, rotary_dim=D // n_heads, window=window)
    outer = 2 * (layers[0] + layers[2])
    return Hierarchy(
        encoder=Stack(f"T{layers[0]}", D, d_ff[0], depth=outer, final_norm=False, **local),
        chunker=chunker,
        pool=PatchQueries(D, n_heads, k, longest),
        inner=Stack(
            f"T{layers[1]}", E, d_ff[1], depth=outer + 2 * layers[1], rotary_dim=E // n_heads, final_norm=False, **base
        ),
        unpool=PatchVectors(E, D, k),
        decoder=PatchDecoder(f"T{layers[2]}", D, d_ff[0], depth=outer, k=k, **local),
        capacity=capacity,
    )


def aunet(layers, d_model, d_ff, n_heads, window, positions_per_chunk, capacity, up=UpByMatrix, rotary_base=5e5):
    """AU-Net's stages over marked tokens (arXiv 2506.14761), all arguments but the last two one per stage from the
    outside in.

    `layers`: of an encoder and as many of a decoder; at last, of the trunk. `positions_per_chunk` and `capacity`: one
    fewer.
    """

    def build(s, outer):
        D, heads = d_model[s], n_heads[s]
        inmost = s == len(layers) - 1
        depth = outer + 2 * layers[s] * (1 if inmost else 2)
        attention = dict(n_heads=heads, rotary_dim=D // heads, rotary_base=rotary_base, window=window[s])
        stack = Stack(f"T{layers[s]}", D, d_ff[s], depth=depth, final_norm=False, **attention)
        if inmost:
            return stack
        return Hierarchy(
            encoder=stack,
            chunker=AtMarks(s, positions_per_chunk[s]),
            pool=Down(D, d_model[s + 1]),
            inner=build(s + 1, depth),
            unpool=up(d_model[s + 1], D),
            decoder=stack.clone(final_norm=s == 0),
            capacity=capacity[s],
        )

    return build(0, 0)
