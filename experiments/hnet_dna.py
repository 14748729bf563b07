"""H-Net on DNA (Hwang, Wang, Gu 2025, arXiv 2507.07955, section 3.4, Table 5): no spaces, no vocabulary, one byte a base.

    lmlab table hnet_dna --scale small --corpus GENOME.fa --set corpus.cut=50000 --set corpus.test=0.05
    lmlab show hnet_dna --scale paper       d 512 everywhere, N = 3, learning rate 5e-3

Any path will do; .fa and .fasta are read as bases, without headers and line ends, and `corpus.cut` makes documents of so
many bases, which the splits are drawn from. Without --corpus the arms read the default corpus, which is no DNA.

The paper's reading: H-Nets reach the isotropic models' perplexity with 3.6 times less data. Its sizes are matched in
neither parameters nor FLOPs per byte at N = 3, and `lmlab show` says by how much; at the smaller scales here they are
matched in FLOPs. The paper's letter M hides two layers, as its parameter counts tell: Mamba-2 alone in encoder and
decoder (m), Mamba-2 with a SwiGLU of twice the width as isotropic or main network (M).
"""

import math

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import hierarchy
from lmlab.models.language_model import LanguageModel
from lmlab.models.stack import Stack
from lmlab.training.optimizers import hnet_multipliers

PAPER = Paper(
    title="Dynamic Chunking for End-to-End Hierarchical Sequence Modeling: DNA",
    year=2025,
    url="arXiv 2507.07955",
    claim="Learned chunks model the human genome better than isotropic models of bases, with 3.6 times less data.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 160_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.015), 1_000_000, 4096, 512, 200, 3e-3, 20_000),
    "paper": Setup(StandardLibrary(), 100_000_000_000, 256 * 8192, 8192, 1792, 5e-3, 1_000_000, "bfloat16"),
}


def isotropic(layouts, scale):
    """A stack over bases."""
    layout, d_model, d_ff, heads, d_state = layouts[scale]
    stack = Stack(layout, d_model, d_ff, n_heads=heads, rotary_dim=d_model // heads // 2, d_state=d_state)
    return SETUPS[scale].run(LanguageModel(256, stack))


def hnet(layouts, scale):
    """A 1-stage H-Net of N = 3, as wide inside as outside."""
    layout, d_model, d_ff, heads, window, d_state = layouts[scale]
    exact = {"smoke": 2.5, "small": (1.4, 2.5), "paper": 1.5}[scale]
    backbone = hierarchy(
        layout,
        (d_model, d_model),
        d_ff,
        n_heads=heads,
        window=window,
        d_state=d_state,
        target=(3.0, 0.0),
        capacity=(exact, None),
    )
    return SETUPS[scale].run(LanguageModel(256, backbone), hnet_multipliers((3.0,), (d_model, d_model)))


def transformer(scale):
    """Attention over bases."""
    layouts = {
        "smoke": ("T2", 64, 80, 4, 32),
        "small": ("T2", 128, 208, 4, 64),
        "paper": ("T9", 512, 1408, 8, 128),
    }
    return isotropic(layouts, scale)


def mamba2(scale):
    """Mamba-2 and MLPs over bases."""
    layouts = {
        "smoke": ("M2", 64, 128, 4, 32),
        "small": ("M2", 128, 288, 4, 64),
        "paper": ("M10", 512, 1024, 8, 128),
    }
    return isotropic(layouts, scale)


def hnet_transformer(scale):
    """Learned chunks, attention inside."""
    layouts = {
        "smoke": (["m1", ["T2"], "m1"], 64, (0, 160), 4, 32, 32),
        "small": (["m1", ["T2"], "m1"], 128, (0, 384), 4, 64, 64),
        "paper": (["m3T1", ["T15"], "m4"], 512, (1408, 1408), 8, 1024, 128),
    }
    return hnet(layouts, scale)


def hnet_mamba2(scale):
    """Learned chunks, Mamba-2 inside."""
    layouts = {
        "smoke": (["m1", ["M2"], "m1"], 64, (0, 96), 4, 32, 32),
        "small": (["m1", ["M2"], "m1"], 128, (0, 256), 4, 64, 64),
        "paper": (["m3T1", ["M15"], "m4"], 512, (1408, 1024), 8, 1024, 128),
    }
    return hnet(layouts, scale)


UNMATCHED = {"paper": "the paper's own layout; it matches neither parameters nor FLOPs per byte in this table."}

ARMS = (
    Arm("mamba2", "Mamba-2 (M10)", mamba2),
    Arm("transformer", "Transformer (T9)", transformer, UNMATCHED),
    Arm("hnet_transformer", "H-Net (M3T1 + T15 + M4)", hnet_transformer, UNMATCHED),
    Arm("hnet_mamba2", "H-Net (M3T1 + M15 + M4)", hnet_mamba2, UNMATCHED),
)

REPORTED = {"transformer": (29, 2.769), "mamba2": (33, 2.757), "hnet_transformer": (64, 2.705), "hnet_mamba2": (66, 2.697)}

TABLE_5 = Table(
    name="table5",
    title="Bits per base (Table 5)",
    arms=tuple(arm.name for arm in ARMS),
    reported_columns=(
        Column("millions", "Parameters", "millions", None, 0),
        Column("perplexity", "HG38", "perplexity of a base", "lower", 3),
        Column("bits", "HG38", "log2 of it: bits per base", "lower", 3),
    ),
    reported={
        arm: {"millions": millions, "perplexity": perplexity, "bits": math.log2(perplexity)}
        for arm, (millions, perplexity) in REPORTED.items()
    },
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per base, measured chunks", None, 3),
        Column("bytes_per_chunk", "Chunk", "bases", None, 2),
        Column("stage0/F", "F", "share of starts at the end", None, 2),
        Column("stage0/G", "G", "mean probability at the end", None, 2),
        Column("validation_bpb", "Validation", "bits per base", "lower", 4),
        Column("bpb", "Test", "bits per base", "lower", 4),
    ),
    source="arXiv 2507.07955v2, Table 5: HG38",
    note="Another genome and another size: nothing but the order can be compared.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE_5,), anchor="mamba2")
