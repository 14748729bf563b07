"""H-Net's ablations (Hwang, Wang, Gu 2025, arXiv 2507.07955, section 3.3 and appendix D): what of the 1-stage model matters?

    lmlab table hnet_ablations --scale small     about 2 minutes per arm and seed on 2 CPU cores: see experiments/README.md
    lmlab show hnet_ablations --scale paper      Large, 36B tokens in the paper

Each arm changes one part of `base`, which is `hnet/hnet_1stage`: how chunks return to bytes, how the router decides and
what drives it, how bytes become a chunk, and what encoder, decoder and main network are made of. The paper shows these
as curves and prints no numbers, so none are reported here; in its words, smoothing matters most, the cosine and the
straight-through factor less, Mamba-2 encoders and decoders (M4) are best and attention worst, pooling by selection is as
good as by mean or cross-attention, and a hybrid main network beats a pure transformer.

What mattered for a router that converges, at `small` with the default recipe (AdamW under WSD, a learning rate per
stage, ratio loss of weight 0.03, both projections the identity at first): the ratio loss. With it the share of starts F
ends within 0.03 of 1/N for N = 3, 4, 6 and (3, 3); without it a chunk is 1.6 to 3.3 bytes long and training computes
1.8 times as much for the same bits per byte. Cosine routing reaches much the same length from every seed, linear routing
5.2 to 8.6 bytes. The mean probability G stays about 0.1 above 1/N outside, and at 0.49 in the second stage: starts are
where they should be in number, but many probabilities there are still near one half. Smoothing and the straight-through
factor made no difference beyond the seeds in 240 steps; the mixer outside did, by a whole bit.

At `small` capacities are exact, so that an arm whose router drifts loses nothing; its steps only take longer.

"m" is Mamba-2 alone and "M" Mamba-2 with an MLP, which the paper's M4 and the released m4 differ in.
"""

from functools import partial

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import hierarchy
from lmlab.models.chunkers import LearnedChunker, LinearChunker
from lmlab.models.language_model import LanguageModel
from lmlab.models.pool import CrossAttention, Mean, Select
from lmlab.models.unpool import Smooth, Unconfident, Unsmoothed
from lmlab.training.optimizers import hnet_multipliers

PAPER = Paper(
    title="Dynamic Chunking for End-to-End Hierarchical Sequence Modeling: ablations",
    year=2025,
    url="arXiv 2507.07955",
    claim="Smoothing is what makes learned chunks train; Mamba-2 is what bytes want around them.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 160_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.015), 1_000_000, 4096, 512, 200, 3e-3, 20_000),
    # 36B tokens of FineWeb-Edu in the paper: about 166 GB; --corpus PATH reads a folder of it.
    "paper": Setup(StandardLibrary(), 166_000_000_000, 256 * 8192, 8192, 1792, 6.25e-4, 1_000_000, "bfloat16"),
}

# Per scale: layout, widths and MLP widths per stage, heads, window of the attention outside, state size. The layouts' FLOPs per byte are within 5%.
BASE = {
    "smoke": (["m1", ["T1"], "m1"], (64, 128), (0, 640), 4, 32, 32),
    "small": (["m1", ["T4"], "m1"], (96, 192), (0, 384), 4, 64, 64),
    "paper": (["m4", ["T22"], "m4"], (1024, 1536), (0, 4096), 16, 1024, 128),
}
MLP = {
    "smoke": (["M1", ["T1"], "M1"], (64, 128), (64, 256), 4, 32, 32),
    "small": (["M1", ["T2"], "M1"], (96, 192), (256, 384), 4, 64, 64),
    "paper": (["M4", ["T17"], "M4"], (1024, 1536), (1024, 4096), 16, 1024, 128),
}
ATTENTION = {
    "smoke": (["T1", ["T1"], "T1"], (64, 128), (128, 512), 4, 32, 32),
    "small": (["T1", ["T4"], "T1"], (96, 192), (192, 384), 4, 64, 64),
    "paper": (["T2", ["T22"], "T2"], (1024, 1536), (2816, 4096), 16, 1024, 128),
}
HYBRID = {
    "smoke": (["m1", ["m1T1"], "m1"], (64, 128), (0, 256), 4, 32, 32),
    "small": (["m1", ["m3T2"], "m1"], (96, 192), (0, 384), 4, 64, 64),
    "paper": (["m4", ["m3T1m3T1m3T1m3T1m3T1m3T1m2T5"], "m4"], (1024, 1536), (0, 4096), 16, 1024, 128),
}


TARGET_3 = {
    "smoke": (["m1", ["T1"], "m1"], (64, 128), (0, 256), 4, 32, 32),
    "small": (["m1", ["T2"], "m1"], (96, 192), (0, 384), 4, 64, 64),
    "paper": (["m4", ["T10"], "m4"], (1024, 1536), (0, 4096), 16, 1024, 128),
}
TARGET_4 = {
    "smoke": (["m1", ["T1"], "m1"], (64, 128), (0, 384), 4, 32, 32),
    "small": (["m1", ["T3"], "m1"], (96, 192), (0, 320), 4, 64, 64),
    "paper": (["m4", ["T14"], "m4"], (1024, 1536), (0, 4096), 16, 1024, 128),
}
TWO_STAGES = {
    "smoke": (["m1", ["m1", ["T2"], "m1"], "m1"], (64, 64, 128), (0, 0, 384), 4, 32, 16),
    "small": (["m1", ["T1m1", ["T5"], "m1T1"], "m1"], (64, 96, 192), (0, 256, 448), 4, 64, 64),
    "paper": (["m4", ["T1m4", ["T26"], "m4T1"], "m4"], (1024, 1024, 1536), (0, 2816, 4096), 16, 1024, 128),
}


def hnet(layouts, chunker, pool, unpool, targets, scale):
    """An H-Net from its parts."""
    layout, d_model, d_ff, heads, window, d_state = layouts[scale]
    # Exact at small only: smoke compiles once, and at paper scale rows are long and so differ less.
    exact = {"smoke": 2.5, "small": (1.4, 2.5), "paper": 1.5}[scale]
    shape = dict(n_heads=heads, window=window, d_state=d_state, target=(*targets, 0.0))
    shape["capacity"] = (exact,) * len(targets) + (None,)
    backbone = hierarchy(layout, d_model, d_ff, chunker=chunker, pool=pool, unpool=unpool, **shape)
    return SETUPS[scale].run(LanguageModel(256, backbone), hnet_multipliers(targets, d_model))


def arm(name, label, layouts=BASE, chunker=LearnedChunker, pool=Select, unpool=Smooth, targets=(6.0,)):
    """An Arm that differs from `base` in what is named."""
    return Arm(name, label, partial(hnet, layouts, chunker, pool, unpool, targets))


ARMS = (
    arm("base", "H-Net (1-stage, N = 6)"),
    arm("no_smoothing", "chunks repeated, not smoothed", unpool=Unsmoothed),
    arm("no_straight_through", "no straight-through factor", unpool=Unconfident),
    arm("no_ratio_loss", "no ratio loss", chunker=partial(LearnedChunker, ratio_weight=0.0)),
    arm("linear_routing", "linear routing", chunker=LinearChunker),
    arm("mean_pooling", "mean over the span", pool=Mean),
    arm("cross_attention", "cross-attention over the span", pool=CrossAttention),
    arm("mlp_outside", "Mamba-2 with MLP outside", MLP),
    arm("attention_outside", "attention outside", ATTENTION),
    arm("hybrid_main", "Mamba-2 and attention inside", HYBRID),
    arm("target_3", "N = 3", TARGET_3, targets=(3.0,)),
    arm("target_4", "N = 4", TARGET_4, targets=(4.0,)),
    arm("two_stages", "two stages, N = 3 and 3", TWO_STAGES, targets=(3.0, 3.0)),
)

TABLE = Table(
    name="ablations",
    title="What of the 1-stage H-Net matters",
    arms=tuple(arm.name for arm in ARMS[:10]),
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured chunks", None, 3),
        Column("bytes_per_chunk", "Chunk", "bytes", None, 2),
        Column("computed", "Computed", "training FLOPs over planned", None, 2),
        Column("stage0/at_words", "At words", "share of starts", None, 2),
        Column("stage0/words_found", "Words found", "share of words", None, 2),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        Column("cost", "Perturbation", "bits per byte over clean", "lower", 3),
    ),
    note="The paper shows curves for these ablations and prints no numbers.",
)

TARGETS = Table(
    name="targets",
    title="Does the router reach its target?",
    arms=("target_3", "target_4", "base", "two_stages"),
    measured=(
        Column("bytes_per_chunk", "Chunk", "bytes, innermost", None, 2),
        Column("stage0/F", "F", "share of starts, outer, at the end", None, 2),
        Column("stage0/G", "G", "mean probability, outer, at the end", None, 2),
        Column("stage1/F", "F", "inner", None, 2),
        Column("stage1/G", "G", "inner", None, 2),
        Column("computed", "Computed", "training FLOPs over planned", None, 2),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    note="The ratio loss asks for F = G = 1/N. The paper prints no such table.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE, TARGETS), anchor="base"
)
