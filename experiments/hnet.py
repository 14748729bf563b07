"""H-Net: dynamic chunking for end-to-end hierarchical sequence modeling (Hwang, Wang, Gu 2025, arXiv 2507.07955).

The question of its Table 2: at equal FLOPs per byte and equal training bytes, does a byte model that learns where its
chunks start match a transformer over BPE tokens? Its Table 3 asks the same of perturbed text, and Table 4 of Chinese
(`hnet_chinese`) and of code, which the default corpus here is.

    lmlab table hnet --scale smoke      every arm, about 5 minutes on 2 CPU cores
    lmlab table hnet --scale small      about 2 minutes per arm and seed on 2 CPU cores: see experiments/README.md
    lmlab show hnet --scale paper       the paper's own sizes, FLOPs per byte side by side

The arms differ in three choices only: what is read (BPE tokens or bytes), where chunks start (nowhere, every 6 bytes,
at white space, where the router says), and how chunks return to bytes. FLOPs per byte are counted as in appendix B,
at the nominal bytes per token and per chunk below; the measured compression stands in the table.

At paper scale the layouts are those of Table 1. The paper gives no betas, weight decay or clip; those here are of
Gu & Dao (2024), whose protocol it names. Its schedule ends in an inverse square root, of what it does not say; ours falls
as one minus the root of the last fifth's progress. Its LlamaByte (window 1024) counts 0.42 GFLOPs per byte only if one
window's scores are divided by the whole sequence; counted per query it is 0.48, so that two layers less stand beside it
as `llamabyte_matched`.
"""

import dataclasses

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, perturbed
from lmlab.models.build import hierarchy, transformer
from lmlab.models.chunkers import FixedStride, LearnedChunker, Whitespace
from lmlab.models.language_model import LanguageModel
from lmlab.models.stack import Stack
from lmlab.models.unpool import AddAtStarts, Repeat, Smooth
from lmlab.text.bpe import BPE
from lmlab.training.optimizers import hnet_multipliers

PAPER = Paper(
    title="Dynamic Chunking for End-to-End Hierarchical Sequence Modeling",
    year=2025,
    url="arXiv 2507.07955",
    claim="A byte model that learns its own chunks matches a BPE transformer at equal compute with one stage, "
    "surpasses it with two, and is far more robust to perturbed text.",
)


SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 500_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 3e-3, 40_000),
    # 100B tokens of FineWeb-Edu in the paper: about 460 GB; --corpus PATH reads a folder of it.
    "paper": Setup(StandardLibrary(), 460_000_000_000, 256 * 8192, 8192, 1792, 6.25e-4, 1_000_000, "bfloat16"),
}

# Nominal compression that the FLOPs are planned with. At paper scale: as achieved there (Table 1). Else: BPE and white
# space as measured on the default corpus; learned chunks at their targets.
BYTES_PER_TOKEN = {"smoke": 2.05, "small": 2.55, "paper": 4.6}
BYTES_PER_WORD = {"smoke": 8.4, "small": 8.4, "paper": 6.0}
PER_CHUNK_1STAGE = {"paper": 4.8}
PER_CHUNK_2STAGE = {"paper": 7.0**0.5}  # each; the paper gives only their product

# Chunk slots over the planned number, stage by stage. Small: four rows that share theirs need up to 1.25 and 1.5 in most
# steps; the others take the next branch and lose nothing. Smoke compiles once; at paper scale rows are long and so
# differ less.
CAPACITY = {"smoke": (2.5, 2.5), "small": ((1.25, 2.5), (1.5, 2.5)), "paper": (1.5, 1.5)}


def bpe_transformer(scale):
    """Transformer over BPE tokens."""
    backbone, vocab = {
        "smoke": (transformer(1, 128, 256, n_heads=4), 512),
        "small": (transformer(2, 192, 512, n_heads=4), 1024),
        "paper": (transformer(24, 1536, 4096), 50_257),
    }[scale]
    tokenizer = BPE(vocab, BYTES_PER_TOKEN[scale])
    model = LanguageModel(vocab, backbone, tied=scale == "paper")  # 757M as in Table 1 only if tied
    return SETUPS[scale].run(model, tokenizer=tokenizer)


def llamabyte(scale):
    """The same transformer over bytes, with a sliding window."""
    backbone = {
        "smoke": transformer(2, 64, 192, n_heads=4, window=64),
        "small": transformer(2, 128, 384, n_heads=4, window=128),
        "paper": transformer(16, 1024, window=1024),
    }[scale]
    return SETUPS[scale].run(LanguageModel(256, backbone))


def llamabyte_matched(scale):
    """LlamaByte of as many layers as match when scores are counted for every query: 14 of the paper's 16."""
    return SETUPS[scale].run(LanguageModel(256, transformer(14, 1024, window=1024)))


def mambabyte(scale):
    """Mamba-2 over bytes."""
    backbone = {
        "smoke": Stack("m3", 64, d_state=32),
        "small": Stack("m3", 128, d_state=64),
        "paper": Stack("m28", 1024),
    }[scale]
    return SETUPS[scale].run(LanguageModel(256, backbone))


def spacebyte(scale):
    """Chunks at white space, transformers around them, chunk outputs added at the chunk's first byte."""
    layout, d_model, d_ff, heads, window = {
        "smoke": (["T1", ["T2"], "T1"], (64, 128), (128, 256), 4, 32),
        "small": (["T1", ["T5"], "T1"], (96, 192), (256, 512), 4, 64),
        "paper": (["T8", ["T16"], "T8"], (768, 1536), (2048, 4096), 16, 768),
    }[scale]
    backbone = hierarchy(
        layout,
        d_model,
        d_ff,
        n_heads=heads,
        window=window,
        capacity=(CAPACITY[scale][0], None),
        chunker=lambda width, target: Whitespace(BYTES_PER_WORD[scale]),
        unpool=AddAtStarts,
    )
    return SETUPS[scale].run(LanguageModel(256, backbone), multipliers=(1.0, 1.0))


def hnet(scale, layouts, chunker, unpool=Smooth, targets=(6.0,)):
    """Mamba-2 encoder and decoder around chunks; `chunker`: (width, N) -> the chunker of a stage."""
    layout, d_model, d_ff, heads, d_state = layouts[scale]
    backbone = hierarchy(
        layout,
        d_model,
        d_ff,
        n_heads=heads,
        d_state=d_state,
        target=(*targets, 0.0),
        capacity=(*CAPACITY[scale][: len(targets)], None),
        chunker=chunker,
        unpool=unpool,
    )
    return SETUPS[scale].run(LanguageModel(256, backbone), hnet_multipliers(targets, d_model))


def hnet_pool(scale):
    """A chunk every 6 bytes."""
    layouts = {
        "smoke": (["m1", ["T1"], "m1"], (64, 128), (0, 384), 4, 32),
        "small": (["m1", ["T4"], "m1"], (96, 192), (0, 448), 4, 64),
        "paper": (["m4", ["T28"], "m4"], (1024, 1536), (0, 4096), 16, 128),
    }
    return hnet(scale, layouts, lambda width, target: FixedStride(6), Repeat)


def hnet_space(scale):
    """A chunk at every word."""
    layouts = {
        "smoke": (["m1", ["T2"], "m1"], (64, 128), (0, 256), 4, 32),
        "small": (["m1", ["T5"], "m1"], (96, 192), (0, 512), 4, 64),
        "paper": (["m4", ["T28"], "m4"], (1024, 1536), (0, 4096), 16, 128),
    }
    return hnet(scale, layouts, lambda width, target: Whitespace(BYTES_PER_WORD[scale]), Repeat)


def hnet_1stage(scale):
    """Learned chunks of 6 bytes or so."""
    layouts = {
        "smoke": (["m1", ["T1"], "m1"], (64, 128), (0, 256), 4, 32),
        "small": (["m1", ["T4"], "m1"], (96, 192), (0, 384), 4, 64),
        "paper": (["m4", ["T22"], "m4"], (1024, 1536), (0, 4096), 16, 128),
    }
    achieved = PER_CHUNK_1STAGE.get(scale)
    return hnet(scale, layouts, lambda width, target: LearnedChunker(width, target, achieved=achieved))


def hnet_2stage(scale):
    """Learned chunks of learned chunks, 3 x 3."""
    layouts = {
        "smoke": (["m1", ["m1", ["T1"], "m1"], "m1"], (64, 64, 128), (0, 0, 256), 4, 16),
        "small": (["m1", ["T1m1", ["T5"], "m1T1"], "m1"], (64, 96, 192), (0, 256, 448), 4, 64),
        "paper": (["m4", ["T1m4", ["T26"], "m4T1"], "m4"], (1024, 1024, 1536), (0, 2816, 4096), 16, 128),
    }
    achieved = PER_CHUNK_2STAGE.get(scale)
    return hnet(
        scale, layouts, lambda width, target: LearnedChunker(width, target, achieved=achieved), targets=(3.0, 3.0)
    )


def hnet_2stage_XL(scale):
    """The largest model whose weights were released: 1.6B parameters, its learning rate, 6.9 bytes per inner chunk."""
    layouts = {
        "paper": (["m4", ["T1m4", ["T27"], "m4T1"], "m4"], (1024, 1536, 2048), (0, 4096, 5504), 16, 128),
    }
    run = hnet(
        scale, layouts, lambda width, target: LearnedChunker(width, target, achieved=6.9**0.5), targets=(3.0, 3.0)
    )
    return dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=5e-4))


ARMS = (
    Arm("bpe_transformer", "Transformer (BPE)", bpe_transformer),
    Arm(
        "llamabyte",
        "LlamaByte (window)",
        llamabyte,
        notes={
            "paper": "the paper's own layout. Its 0.42 GFLOPs per byte count the scores of one window for a whole sequence; "
            "counted for every query, as here, they are 0.48. By the paper's count it is within 1% of bpe_transformer; "
            "llamabyte_matched is by ours."
        },
    ),
    Arm("mambabyte", "MambaByte", mambabyte),
    Arm("spacebyte", "SpaceByte", spacebyte),
    Arm("hnet_pool", "H-Net (pool)", hnet_pool),
    Arm("hnet_space", "H-Net (space)", hnet_space),
    Arm("hnet_1stage", "H-Net (1-stage)", hnet_1stage),
    Arm("hnet_2stage", "H-Net (2-stage)", hnet_2stage),
)
XL = Arm("hnet_2stage_XL", "H-Net (2-stage, XL)", hnet_2stage_XL, scales=("paper",), size="XL")
MATCHED = Arm("llamabyte_matched", "LlamaByte (window, matched)", llamabyte_matched, scales=("paper",))
NAMES = tuple(arm.name for arm in ARMS)


def by_arm(keys, rows):
    """{arm: {key: value}} of rows in the order of ARMS."""
    return {name: dict(zip(keys, row, strict=True)) for name, row in zip(NAMES, rows, strict=True)}


TABLE_2 = Table(
    name="table2",
    title="Bits per byte at matched FLOPs per byte (Table 2, Large)",
    arms=(*NAMES, MATCHED.name),
    reported_columns=(
        Column("gflops", "GFLOPs", "per byte", None, 2),
        Column("bpb", "FineWeb-Edu", "bits per byte", "lower", 3),
        Column("average", "7 tasks", "accuracy, %", "higher", 1),
    ),
    reported=by_arm(
        ("gflops", "bpb", "average"),
        [
            (0.42, 0.756, 53.3),
            (0.42, 0.859, 44.1),
            (0.42, 0.845, 44.3),
            (0.41, 0.791, 49.4),
            (0.42, 0.780, 51.6),
            (0.42, 0.755, 53.4),
            (0.43, 0.755, 53.6),
            (0.43, 0.743, 55.5),
        ],
    ),
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured chunks", None, 3),
        Column("computed", "Computed", "training FLOPs over planned", None, 2),
        Column("bytes_per_chunk", "Chunk", "bytes", None, 2),
        Column("validation_bpb", "Validation", "bits per byte", "lower", 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    source="arXiv 2507.07955v2, Table 2, Large: 100B tokens of FineWeb-Edu, zero-shot accuracy averaged over 7 tasks",
)

TABLE_3 = Table(
    name="table3",
    title="Robustness to perturbed text (Table 3, Large)",
    arms=(*NAMES, MATCHED.name),
    reported_columns=(
        Column("antspeak", "Antspeak", "HellaSwag, %", "higher", 1),
        Column("drop", "Drop", "HellaSwag, %", "higher", 1),
        Column("random_case", "RandomCase", "HellaSwag, %", "higher", 1),
        Column("repeat", "Repeat", "HellaSwag, %", "higher", 1),
        Column("upper_case", "UpperCase", "HellaSwag, %", "higher", 1),
        Column("score", "Score", "robustness", "higher", 1),
    ),
    reported=by_arm(
        ("antspeak", "drop", "random_case", "repeat", "upper_case", "score"),
        [
            (31.1, 29.9, 27.1, 27.8, 38.9, 20.2),
            (30.4, 28.1, 29.3, 27.2, 38.5, 36.9),
            (29.8, 27.9, 29.9, 27.1, 39.6, 34.5),
            (30.7, 29.8, 33.5, 29.5, 47.8, 38.1),
            (30.5, 31.2, 35.4, 29.6, 53.4, 37.3),
            (30.8, 31.2, 38.6, 29.4, 54.0, 38.2),
            (31.2, 31.1, 35.4, 29.9, 54.1, 37.2),
            (30.8, 32.1, 39.3, 30.4, 57.1, 39.0),
        ],
    ),
    measured=perturbed(),
    source="arXiv 2507.07955v2, Table 3, Large: HellaSwag accuracy under each perturbation",
    note="Measured: bits per byte of perturbed excerpts of every test document, per byte of the perturbed text; clean: of "
    "the same excerpts as they are. The paper's metric is another one (accuracy), so only orders can be compared.",
)

TABLE_4 = Table(
    name="table4",
    title="Code (Table 4, XL)",
    arms=("bpe_transformer", "hnet_space", "hnet_2stage"),
    reported_columns=(
        Column("bytes_per_chunk", "Chunk", "bytes", None, 2),
        Column("bpb", "Pile GitHub", "bits per byte", "lower", 4),
    ),
    reported={
        "bpe_transformer": {"bytes_per_chunk": 3.58, "bpb": 0.3376},
        "hnet_space": {"bytes_per_chunk": 7.97, "bpb": 0.3163},
        "hnet_2stage": {"bytes_per_chunk": 7.23, "bpb": 0.3161},
    },
    measured=(
        Column("bytes_per_chunk", "Chunk", "bytes", None, 2),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    source="arXiv 2507.07955v2, Table 4: XL, 46B tokens of the Pile's GitHub",
    note="Measured: the arms of Table 2 on the default corpus, Python's standard library; smaller and matched as there; at "
    "paper scale Large, where the paper's are XL.",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=(*ARMS, MATCHED, XL),
    tables=(TABLE_2, TABLE_3, TABLE_4),
    anchor="bpe_transformer",
)
