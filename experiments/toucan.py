"""Toucan: token-aware character-level language modeling (Fleshman & Van Durme 2023, arXiv 2311.08620).

Dynamic token pooling whose decoder learns where segments end and then writes a whole segment on its own: all other
layers run once per segment. The paper's claim: much faster generation of characters, without a loss in language
modelling.

    lmlab table toucan --scale smoke
    lmlab table toucan --scale small
    lmlab show toucan --scale paper      2 + 8 + 2 layers of 512

The arms differ in what the decoder reads beside the segment's vector (the encoder's output, or the bytes'
embeddings), in the head that also says whether a byte ends its segment, and so in what a byte must wait for: in the
baseline for encoder and decoder, in Toucan for the decoder alone, but at the beginning of a segment. Either way the
encoder reads every byte once, in Toucan several of a segment in one pass. The paper's bits per character count
its end-of-token symbol as one more character and are not comparable, as it says; ours are of the text alone, for
every arm.
"""

import dataclasses

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.evaluation.backbone_calls import BackboneCalls
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.boundaries import GumbelBoundaries
from lmlab.models.build import hourglass
from lmlab.models.language_model import LanguageModel
from lmlab.models.toucan import AddToInput, Toucan, WithInput
from lmlab.objectives.ends import NextTokenAndEnd
from lmlab.objectives.next_token import NextToken

PAPER = Paper(
    title="Toucan: Token-Aware Character Level Language Modeling",
    year=2023,
    url="arXiv 2311.08620",
    claim="A decoder that knows where its tokens end writes characters much faster, without a loss in modelling.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 160_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 2e-3, 40_000),
    "paper": Setup(StandardLibrary(), 200_000 * 8 * 2048, 8 * 2048, 2048, 450, 2.5e-4, 1_000_000, "bfloat16"),
}
# Layers before, within and behind the segments; width, MLP, heads.
SIZES = {"smoke": ((1, 1, 1), 64, 128, 2), "small": ((1, 4, 1), 128, 384, 4), "paper": ((2, 8, 2), 512, 2048, 8)}
CAPACITY = {"smoke": 2.5, "small": (1.75, 3.0), "paper": (1.5, 3.0)}


def backbone_at(scale, prior):
    """The hourglass of either arm."""
    layers, width, d_ff, heads = SIZES[scale]
    chunker = GumbelBoundaries(width, d_ff, 1 / prior, prior=prior)
    return hourglass(layers, width, d_ff, heads, chunker, capacity=CAPACITY[scale])


def measured(scale, model, objective=NextToken()):
    """The run, with passes per byte beside the usual."""
    run = SETUPS[scale].run(model, multipliers=(1.0, 1.0), objective=objective)
    return dataclasses.replace(run, evaluators=(*run.evaluators, BackboneCalls("test")))


def pooling(scale):
    """Dynamic token pooling."""
    return measured(scale, LanguageModel(256, backbone_at(scale, 0.2)))


def toucan(scale, prior=0.2):
    """Toucan at segments of 1 / `prior` bytes."""
    backbone = backbone_at(scale, prior)
    backbone = backbone.clone(encoder=WithInput(backbone.encoder), unpool=AddToInput(backbone.d_model))
    return measured(scale, Toucan(256, backbone), NextTokenAndEnd())


def toucan_10(scale):
    """Toucan at segments of 10 bytes."""
    return toucan(scale, 0.1)


HEAD = {"smoke": "one more head: at this size a part of the FLOPs per byte that shows."}
LONGER = "longer segments and one more head: not the FLOPs per byte of the others, by the paper's own choice."

ARMS = (
    Arm("pooling", "Dynamic token pooling", pooling),
    Arm("toucan", "Toucan (prior 0.2)", toucan, HEAD),
    Arm("toucan_10", "Toucan (prior 0.1)", toucan_10, {scale: LONGER for scale in SETUPS}),
)

TABLE = Table(
    name="calls",
    title="Bits per byte and what runs per byte",
    arms=tuple(arm.name for arm in ARMS),
    reported_columns=(
        Column("bpt", "text8", "bits per token", "lower", 3),
        Column("chunk", "text8", "characters per token", None, 1),
        Column("seconds", "Writing", "seconds per 1000 characters", "lower", 1),
    ),
    reported={
        "pooling": {"bpt": 5.840, "chunk": 4.9},
        "toucan": {"bpt": 5.911, "chunk": 4.9, "seconds": 6.1},
        "toucan_10": {"chunk": 10.2, "seconds": 3.9},
    },
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured chunks", None, 3),
        Column("bytes_per_chunk", "Segment", "bytes", None, 2),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        Column("inner_calls", "Inner", "passes per byte of the test split", "lower", 3),
        Column("encoder_positions", "Encoder", "positions per byte", "lower", 3),
        Column("encoder_waits", "Encoder first", "share of bytes that wait for it", "lower", 3),
        Column("sampled_inner_calls", "Inner, sampled", "passes per byte written", None, 3),
        Column("sampled_encoder_passes", "Encoder, sampled", "passes per byte written", None, 3),
        Column("writing_seconds", "Writing", "seconds per 1000 bytes", "lower", 3),
    ),
    source="arXiv 2311.08620 (review version): text8, seconds on an RTX 6000",
    note="The first columns here are of the same text for all arms, the last three of what each writes itself, 16 times 500 bytes (seconds: the median, but for the first), "
    "one row from nothing, in a compiled loop: a byte at a time, or Toucan's segments, which its encoder then reads in "
    "passes of up to eight bytes. Only the decoder is on the serial path of a byte that does not begin a segment. Seconds "
    "of a shared machine: compare rows, no more.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE,), anchor="pooling")
