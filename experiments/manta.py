"""MANTa: efficient gradient-based tokenization for robust end-to-end language modeling (Godey et al. 2022).

A small transformer with a window puts frontiers between bytes, softly; bytes are pooled into the blocks between them,
at most one block for four bytes, and a T5 encoder reads the blocks while the decoder writes bytes. Do the frontiers
come to lie at words, and is the model faster than one over bytes, and as robust?

    lmlab table manta --scale smoke
    lmlab table manta --scale small
    lmlab show manta --scale paper       the paper's own sizes (Small)

At smoke and small the pooled arms have deeper encoders and all arms spend the same FLOPs per byte read; at paper scale
the encoders are alike. Blocks are means, which are exact for sharp frontiers, where the paper takes maxima; it trains
with Adafactor and a learning rate of their own for the frontiers, here all have AdamW's.
"""

from lmlab.comparison import SPAN_SETUPS, Setup, spans
from lmlab.data.corpora import StandardLibrary
from lmlab.evaluation.frontiers import FrontierF1
from lmlab.evaluation.other_source import OtherSource
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.encoder_decoder import t5
from lmlab.models.gbst import MeanPool, PooledEncoder
from lmlab.models.manta import MANTa

PAPER = Paper(
    title="MANTa: Efficient Gradient-Based Tokenization for Robust End-to-End Language Modeling",
    year=2022,
    url="arXiv 2212.07284",
    claim="A differentiable segmentation into blocks, trained with the language model, is robust to perturbed and "
    "foreign text and considerably faster than models over bytes.",
)

SETUPS = SPAN_SETUPS | {
    "paper": Setup(StandardLibrary(), 1024 * 1024 * 65_000, 1024 * 1024, 1024, 1024, 1e-3, 1_000_000, "bfloat16"),
}
SIZES = {"smoke": (288, 64, 4, 16), "small": (288, 128, 4, 32), "paper": (384, 512, 8, 64)}  # vocabulary, d, heads, d_kv
PAPER_SHAPE = ((6, 6), 2048)


def model(scale, shapes, evaluators=(), **encoder):
    """The Run of one arm; `shapes`: scale -> ((encoder, decoder) layers, d_ff)."""
    vocab, d_model, heads, d_kv = SIZES[scale]
    layers, d_ff = shapes[scale]
    built = t5(vocab, layers, d_model, d_ff, heads, d_kv, **encoder)
    return SETUPS[scale].run(built, corruption=spans(scale), evaluators=(OtherSource(), *evaluators))


def byte_t5(scale):
    """Every byte read."""
    return model(scale, {"smoke": ((3, 1), 128), "small": ((3, 1), 256), "paper": PAPER_SHAPE})


def stride(scale):
    """The mean of every four bytes."""
    shapes = {"smoke": ((6, 1), 288), "small": ((8, 1), 392), "paper": PAPER_SHAPE}
    return model(scale, shapes, encoder=PooledEncoder, front=MeanPool(SIZES[scale][1], 4))


def manta(scale):
    """Learned blocks of four bytes or more."""
    shapes = {"smoke": ((6, 1), 304), "small": ((8, 1), 460), "paper": PAPER_SHAPE}
    d_byte, heads = {"smoke": (32, 4), "small": (32, 4), "paper": (64, 8)}[scale]
    front = MANTa(SIZES[scale][0], SIZES[scale][1], d_byte, n_heads=heads)
    return model(scale, shapes, (FrontierF1(),), encoder=PooledEncoder, front=front)


CHEAPER = "the paper's own layout, cheaper than the byte-level T5 in FLOPs per byte."
ARMS = (
    Arm("byte_t5", "Byte-level T5", byte_t5),
    Arm("stride", "Mean of 4", stride, notes={"paper": CHEAPER}),
    Arm("manta", "MANTa", manta, notes={"paper": CHEAPER}),
)

TABLE = Table(
    name="manta",
    title="Speed, frontiers and robustness",
    arms=tuple(arm.name for arm in ARMS),
    reported_columns=(Column("seconds_per_step", "Step", "seconds, Small", "lower", 2),),
    reported={"byte_t5": {"seconds_per_step": 9.06}, "manta": {"seconds_per_step": 2.61}},
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte read", None, 3),
        Column("steps_per_second", "Steps", "per second", "higher", 2),
        Column("bpb", "Test", "bits per byte written", "lower", 3),
        Column("own_source", "Own source", "bits per byte, 12 batches", "lower", 3),
        Column("other_source", "Another's", "bits per byte, 12 batches", None, 3),
        Column("cost", "Perturbation", "bits per byte written over clean", "lower", 3),
        Column("bytes_per_block", "Block", "bytes", None, 2),
        Column("frontier_precision", "Frontiers at words", "share of frontiers", None, 2),
        Column("frontier_recall", "Words found", "share of words", None, 2),
        Column("frontier_f1", "F1", "against white space", None, 2),
        Column("lost", "Lost", "share of bytes", None, 3),
    ),
    source="arXiv 2212.07284: seconds per step on 16 V100s, byte-level T5 Small and MANTa-LM Small",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(TABLE,),
    anchor="byte_t5",
)
