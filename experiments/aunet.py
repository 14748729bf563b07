"""From bytes to ideas: language modeling with autoregressive U-Nets (Videau et al. 2025, arXiv 2506.14761).

The question: at equal FLOPs per byte, does a byte model that pools bytes to words, words to pairs and pairs to groups
of four match a transformer over BPE tokens, and does each further stage help?

    lmlab table aunet --scale smoke
    lmlab table aunet --scale small
    lmlab show aunet --scale paper      sizes and FLOPs per byte side by side

The arms differ in the number of stages and in what is read; depths bring them to equal FLOPs per byte. AU-Net 2 has the
stages bytes and words, AU-Net 3 pairs of words too, AU-Net 4 also groups of four. Units end where the released code's
"word" expressions say, made causal (`lmlab.models.word_marks`); each position reads its chunk through the matrix of its
offset.

At paper scale AU-Net 2 has the widths, layers and windows of the released configuration (512 and 2048, 3 and 25 layers,
windows of 512 and 4096) and its learning rate. AU-Net 3 has the widths of the released one (512, 2048, 3456), but 4 and
8 layers in place of 6 and 12, to be no more expensive. The configuration of AU-Net 4 is not known to us; nor are bytes
per unit, which are planned as on our corpus. Corpus, schedule, betas and clip (theirs is 0.2) are those of H-Net's
paper-scale runs.
"""

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import aunet, transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.marks import Marked
from lmlab.models.word_marks import WordMarker
from lmlab.text.bpe import BPE

PAPER = Paper(
    title="From Bytes to Ideas: Language Modeling with Autoregressive U-Nets",
    year=2025,
    url="arXiv 2506.14761",
    claim="A byte model that pools to words and groups of words ties with strong BPE baselines at equal pretraining "
    "compute, and deeper hierarchies have a promising trend.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 500_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 3e-3, 40_000),
    "paper": Setup(StandardLibrary(), 460_000_000_000, 256 * 8192, 8192, 1792, 1.65e-3, 1_000_000, "bfloat16"),
}
BYTES_PER_TOKEN = {"smoke": 2.05, "small": 2.55, "paper": 4.6}

# Bytes per word, words per pair, pairs per group of four, with numbers, punctuation and lines, which end every unit: as
# measured on the default corpus.
RATIOS = (4.75, 1.4, 1.25)
CAPACITY = {"smoke": 2.5, "small": (1.5, 2.5), "paper": 1.5}


def bpe_transformer(scale):
    """Transformer over BPE tokens."""
    backbone, vocab = {
        "smoke": (transformer(1, 128, 448, n_heads=4), 512),
        "small": (transformer(2, 176, 448, n_heads=4), 1024),
        "paper": (transformer(23, 2048, 5632), 50_257),
    }[scale]
    return SETUPS[scale].run(LanguageModel(vocab, backbone), tokenizer=BPE(vocab, BYTES_PER_TOKEN[scale]))


def byte_arm(scale, layers, d_model, d_ff, n_heads, window):
    """An AU-Net of as many stages as there are widths."""
    stages = len(d_model)
    backbone = aunet(layers, d_model, d_ff, n_heads, window, RATIOS[: stages - 1], (CAPACITY[scale],) * (stages - 1))
    marker = WordMarker((1, 2, 4)[: stages - 1])
    return SETUPS[scale].run(LanguageModel(256, Marked(marker, backbone)), multipliers=(1.0,) * stages)


def aunet2(scale):
    """Bytes and words."""
    return byte_arm(
        scale,
        *{
            "smoke": ((1, 1), (48, 96), (128, 1392), (3, 3), (32, None)),
            "small": ((2, 3), (64, 128), (192, 384), (4, 4), (128, None)),
            "paper": ((3, 25), (512, 2048), (1536, 5632), (8, 16), (512, 4096)),
        }[scale],
    )


def aunet3(scale):
    """Bytes, words and pairs of words."""
    return byte_arm(
        scale,
        *{
            "smoke": ((1, 1, 1), (48, 64, 96), (128, 192, 1104), (3, 4, 3), (32, 32, None)),
            "small": ((2, 1, 2), (64, 96, 128), (192, 256, 384), (4, 4, 4), (128, 128, None)),
            "paper": ((3, 4, 8), (512, 2048, 3456), (1536, 5632, 9216), (8, 16, 27), (512, 4096, None)),
        }[scale],
    )


def aunet4(scale):
    """Bytes, words, pairs of words and groups of four."""
    return byte_arm(
        scale,
        *{
            "smoke": ((1, 1, 1, 1), (48, 64, 64, 96), (128, 192, 192, 672), (3, 4, 4, 3), (32, 32, 32, None)),
            "small": ((2, 1, 1, 1), (64, 96, 96, 128), (192, 192, 192, 384), (4, 4, 4, 4), (128, 128, 128, None)),
            "paper": (
                (3, 2, 2, 9),
                (512, 2048, 2560, 3456),
                (1536, 5632, 6912, 9216),
                (8, 16, 20, 27),
                (512, 4096, None, None),
            ),
        }[scale],
    )


ARMS = (
    Arm("bpe_transformer", "Transformer (BPE)", bpe_transformer),
    Arm("aunet2", "AU-Net 2 (words)", aunet2),
    Arm("aunet3", "AU-Net 3 (and pairs)", aunet3),
    Arm("aunet4", "AU-Net 4 (and fours)", aunet4),
)
NAMES = tuple(arm.name for arm in ARMS)
TASKS = (("hellaswag", "HellaSwag"), ("mmlu", "MMLU"), ("gsm8k", "GSM8k"))
REPORTED = {
    "bpe_transformer": (70.2, 27.0, 4.4),
    "aunet2": (69.9, 28.8, 3.0),
    "aunet3": (72.9, 28.0, 3.7),
    "aunet4": (73.7, 31.7, 5.3),
}

TABLE_1 = Table(
    name="table1",
    title="Bits per byte at matched FLOPs per byte (Table 1, 1B)",
    arms=NAMES,
    reported_columns=tuple(Column(key, title, "%", "higher", 1) for key, title in TASKS),
    reported={arm: {key: v for (key, _), v in zip(TASKS, row, strict=True)} for arm, row in REPORTED.items()},
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured chunks", None, 3),
        Column("computed", "Computed", "training FLOPs over planned", None, 2),
        Column("bytes_per_chunk", "Chunk", "bytes", None, 2),
        Column("validation_bpb", "Validation", "bits per byte", "lower", 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        Column("cost", "Perturbed - clean", "bits per byte", "lower", 3),
    ),
    source="arXiv 2506.14761, Table 1: 1B parameters, 370B tokens",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(TABLE_1,),
    anchor="bpe_transformer",
)
