"""Efficient transformers with dynamic token pooling (Nawrot et al. 2023, arXiv 2211.09761).

A transformer over bytes whose middle layers see means of segments. The paper's claim: segments of varying length that
follow the text, drawn or taught, are both faster and more accurate than a plain transformer and than segments of a
fixed length.

    lmlab table token_pooling --scale smoke
    lmlab table token_pooling --scale small
    lmlab show token_pooling --scale paper      12 layers of 512, or 2 + 8 + 2 around the segments

The arms differ in where segments end: nowhere (all layers see bytes), at every 5th byte, at white space, where the
model's own prediction grows uncertain or where a Unigram tokenizer of the corpus cuts (a predictor is taught either),
or where a predictor draws it (Gumbel: a relaxed Bernoulli sample with a straight-through threshold and a binomial
prior). Three things differ from the released model by intent: a taught predictor's probability is not put through a
second sigmoid; what evaluation draws follows from the text, so that its bits per byte are those of one fixed draw; there
is no dropout. The recipe is this repository's, where the paper has Adam under a cosine and a clip of 0.25.
"""

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.boundaries import BoundaryPredictor, GumbelBoundaries, Separators
from lmlab.models.build import hourglass
from lmlab.models.chunkers import FixedStride
from lmlab.models.language_model import LanguageModel
from lmlab.models.segments import SegmentMean, StraightThroughMean
from lmlab.models.transformer_xl import TransformerXL
from lmlab.objectives.boundaries import Cuts, EntropySpikes
from lmlab.objectives.next_token import NextToken
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.cuts import UnigramCuts

PAPER = Paper(
    title="Efficient Transformers with Dynamic Token Pooling",
    year=2023,
    url="arXiv 2211.09761",
    claim="Pooling bytes into segments of varying length is faster and more accurate than no pooling and than segments "
    "of a fixed length.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 500_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 2e-3, 40_000),
    # 200,000 steps of 8 x 2048 characters of text8.
    "paper": Setup(StandardLibrary(), 200_000 * 8 * 2048, 8 * 2048, 2048, 450, 2.5e-4, 1_000_000, "bfloat16"),
}
# Layers before, within and behind the segments; width, MLP, heads; layers and MLP without segments.
SIZES = {
    "smoke": ((1, 1, 1), 64, 128, 2, 2, 208),
    "small": ((1, 4, 1), 128, 384, 4, 3, 208),
    "paper": ((2, 8, 2), 512, 2048, 8, 12, 2048),
}
BYTES_PER_WORD = {"smoke": 5.0, "small": 5.0, "paper": 5.0}
# Slots over the planned number. A predictor begins with a start at every other byte or so, far above the plan: exact
# where there is more than a moment to train.
CAPACITY = {"smoke": 2.5, "small": (1.75, 3.0), "paper": (1.5, 3.0)}


def plain(scale):
    """No segments."""
    _, width, _, heads, layers, d_ff = SIZES[scale]
    return SETUPS[scale].run(LanguageModel(256, TransformerXL(layers, width, d_ff, heads)))


def pooled(scale, chunker, pool=SegmentMean, objective=NextToken(), tokenizer=ByteTokenizer()):
    """`chunker`: (width, MLP of a predictor) -> part."""
    layers, width, d_ff, heads, _, _ = SIZES[scale]
    predictor = d_ff if scale == "paper" else d_ff // 2
    backbone = hourglass(layers, width, d_ff, heads, chunker(width, predictor), pool, CAPACITY[scale])
    return SETUPS[scale].run(LanguageModel(256, backbone), (1.0, 1.0), tokenizer, objective=objective)


def fixed(scale):
    """A segment of every 5 bytes."""
    return pooled(scale, lambda width, d_ff: FixedStride(5))


def whitespace(scale):
    """A segment of every word."""
    return pooled(scale, lambda width, d_ff: Separators(BYTES_PER_WORD[scale]))


def entropy(scale):
    """Segments that end at spikes of the model's entropy."""
    return pooled(scale, BoundaryPredictor, objective=EntropySpikes())


def unigram(scale):
    """Segments that end where a Unigram tokenizer cuts, as far as a predictor foresees it."""
    pieces = {"smoke": 400, "small": 1000, "paper": 5000}[scale]
    return pooled(scale, BoundaryPredictor, objective=Cuts(), tokenizer=UnigramCuts(pieces=pieces))


def gumbel(scale):
    """Segments whose ends are drawn."""
    return pooled(scale, GumbelBoundaries, StraightThroughMean)


NOTE = {"paper": "the paper's own layout; without segments its 12 layers cost more than twice the FLOPs per byte."}

ARMS = (
    Arm("plain", "No pooling", plain, NOTE),
    Arm("fixed", "Fixed length", fixed),
    Arm("whitespace", "White space", whitespace),
    Arm("entropy", "Entropy spikes", entropy),
    Arm("unigram", "Unigram cuts", unigram),
    Arm("gumbel", "Gumbel", gumbel),
)

TABLE = Table(
    name="segments",
    title="Bits per byte by where segments end",
    arms=tuple(arm.name for arm in ARMS),
    reported_columns=(
        Column("text8", "text8", "bits per character", "lower", 3),
        Column("text8_chunk", "text8", "characters per segment", None, 1),
        Column("wiki40b", "wiki40b-en", "bits per character", "lower", 3),
        Column("wiki40b_chunk", "wiki40b-en", "characters per segment", None, 1),
    ),
    reported={"gumbel": {"text8": 1.195, "text8_chunk": 4.9, "wiki40b": 1.115, "wiki40b_chunk": 5.0}},
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured chunks", None, 3),
        Column("computed", "Computed", "training FLOPs over planned", None, 2),
        Column("bytes_per_chunk", "Segment", "bytes", None, 2),
        Column("validation_bpb", "Validation", "bits per byte", "lower", 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    source="arXiv 2311.08620 (review version): a run of this paper's code by Toucan's authors",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE,), anchor="gumbel")
