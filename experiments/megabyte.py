"""MegaByte: predicting million-byte sequences with multiscale transformers (Yu et al. 2023, arXiv 2305.07185).

A global transformer reads patches of P bytes, a local one writes the bytes of each patch on its own. The paper's
claim: at equal cost this models bytes better than one transformer over bytes, which spends most of it on long
sequences.

    lmlab table megabyte --scale smoke
    lmlab table megabyte --scale small
    lmlab show megabyte --scale paper

The arms differ in what carries the FLOPs: one transformer over bytes with a sliding window, or a global and a local
one at two patch sizes. All have the same blocks, those in which SpaceByte's paper measured MegaByte. At paper scale
MegaByte has the layers and widths that HAT's authors (arXiv 2501.10322) give for theirs, 14 of 2048 over 18 of 1024,
and reads 80 billion bytes, as many as the reported models; the transformer is ours, matched to it in FLOPs per byte, as
are the smaller scales.
"""

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import megabyte, qk_norm
from lmlab.models.language_model import LanguageModel

PAPER = Paper(
    title="MEGABYTE: Predicting Million-byte Sequences with Multiscale Transformers",
    year=2023,
    url="arXiv 2305.07185",
    claim="A global transformer over patches and a local one within them model bytes better than one transformer over "
    "bytes at equal cost.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 500_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 3e-3, 40_000),
    # 80 billion bytes, as the models that are reported below.
    "paper": Setup(StandardLibrary(), 80_000_000_000, 64 * 8192, 8192, 1792, 2e-4, 1_000_000, "bfloat16"),
}
# Chunk slots over the planned number: a patch more for every document of a row.
CAPACITY = {"smoke": 1.25, "small": (1.25, 2.0), "paper": 1.1}


def transformer(scale):
    """One transformer over bytes."""
    sizes = {"smoke": (2, 64, 32, 64), "small": (3, 128, 32, 128), "paper": (22, 1024, 64, 1024)}
    n_layers, width, d_head, window = sizes[scale]
    setup = SETUPS[scale]
    return setup.run(LanguageModel(256, qk_norm(n_layers, width, setup.length, d_head, window, normed=True)))


def patched(scale, patch, sizes):
    """MegaByte over patches of `patch` bytes. `sizes`: layers and widths, global and local, and channels of a head."""
    n_layers, d_model, d_head = sizes[scale]
    setup = SETUPS[scale]
    backbone = megabyte(n_layers, d_model, patch, setup.length, d_head, CAPACITY[scale])
    return setup.run(LanguageModel(256, backbone), multipliers=(1.0, 1.0))


def megabyte_4(scale):
    """Patches of 4 bytes."""
    sizes = {
        "smoke": ((1, 1), (128, 64), 32),
        "small": ((2, 2), (192, 128), 32),
        "paper": ((14, 16), (1536, 1024), 64),
    }
    return patched(scale, 4, sizes)


def megabyte_8(scale):
    """Patches of 8 bytes."""
    sizes = {
        "smoke": ((1, 1), (192, 64), 32),
        "small": ((3, 2), (256, 128), 32),
        "paper": ((14, 18), (2048, 1024), 64),
    }
    return patched(scale, 8, sizes)


ARMS = (
    Arm("transformer", "Transformer (bytes)", transformer),
    Arm("megabyte_4", "MegaByte (P = 4)", megabyte_4),
    Arm("megabyte_8", "MegaByte (P = 8)", megabyte_8),
)

TABLE = Table(
    name="bytes",
    title="Bits per byte at matched FLOPs per byte",
    arms=tuple(arm.name for arm in ARMS),
    reported_columns=(
        Column("pg19", "PG-19", "bits per byte", "lower", 3),
        Column("stories", "Stories", "bits per byte", "lower", 3),
        Column("arxiv", "arXiv", "bits per byte", "lower", 3),
        Column("github", "GitHub", "bits per byte", "lower", 3),
    ),
    reported={
        "transformer": {"pg19": 1.057, "stories": 1.064, "arxiv": 0.816, "github": 0.575},
        "megabyte_8": {"pg19": 1.000, "stories": 0.978, "arxiv": 0.678, "github": 0.411},
    },
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured chunks", None, 3),
        Column("bytes_per_chunk", "Chunk", "bytes", None, 2),
        Column("validation_bpb", "Validation", "bits per byte", "lower", 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    source="this paper's byte Transformer-320M and MegaByte-758M+262M after 80 billion bytes, as arXiv 2404.14408v3 "
    "quotes them",
    note="Of the reported models the transformer has a context of 1024 bytes, MegaByte (P = 8) of 8192; the texts "
    "of arXiv and GitHub are not quite those of the quoting paper. The first byte of a row that continues a "
    "document is read by no arm with patches.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE,), anchor="transformer"
)
