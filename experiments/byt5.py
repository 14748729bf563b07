"""ByT5: towards a token-free future with pre-trained byte-to-byte models (Xue et al. 2022, arXiv 2105.13626).

A standard T5 over bytes in place of subwords: the parameters of the vocabulary go into a wider and deeper network
whose encoder is three times as deep as its decoder, and the spans to fill in are longer, 20 bytes in the mean in place
of 3 subwords. Its Table 6 asks what perturbed text costs, its Table 8 what depth and span lengths matter.

    lmlab table byt5 --scale smoke
    lmlab table byt5 --scale small
    lmlab show byt5 --scale paper       the paper's own sizes

Bits per byte are of what is written: at paper scale the bytes that were taken out (15%), sentinels and the end
included, since whoever fills spans must also say where they end; at smoke and small all of a text that 30% was taken
out of. They depend on the length of the spans, so that the arm with other spans is compared by robustness. At smoke and
small the arms are matched in FLOPs per byte read; at paper scale they are ByT5 Small and mT5 Small, matched in
parameters and tokens, so that mT5 reads 4.1 times the text. The paper trains with Adafactor under an inverse square
root; here it is AdamW under WSD. Sentinels are ids of their own, where ByT5 takes the last byte ids.
"""

from lmlab.comparison import SPAN_SETUPS, Setup, spans
from lmlab.data.corpora import StandardLibrary
from lmlab.evaluation.other_source import OtherSource
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.encoder_decoder import t5
from lmlab.text.bpe import BPE

PAPER = Paper(
    title="ByT5: Towards a token-free future with pre-trained byte-to-byte models",
    year=2022,
    url="arXiv 2105.13626",
    claim="A standard transformer over bytes is competitive with its subword counterpart, and significantly more robust "
    "to noise.",
)

# mC4, 1M steps of 2^20 tokens: --corpus PATH reads a folder of it.
SETUPS = SPAN_SETUPS | {
    "paper": Setup(StandardLibrary(), 2**20 * 1_000_000, 2**20, 1024, 1024, 1e-3, 1_000_000, "bfloat16"),
}
SIZES = {  # heads, d_kv, vocabulary with room for sentinels
    "smoke": (4, 16, 288),
    "small": (4, 32, 288),
    "paper": (6, 64, 384),
}
BYTES_PER_TOKEN = {"smoke": 2.05, "small": 2.55, "paper": 4.1}  # at paper scale: mC4's, of mT5's vocabulary


def bytes_(scale, shapes, mean_span=20.0):
    """A byte model; `shapes`: scale -> (encoder and decoder layers, d_model, d_ff)."""
    heads, d_kv, vocab = SIZES[scale]
    model = t5(vocab, *shapes[scale], heads, d_kv)
    return SETUPS[scale].run(model, corruption=spans(scale, mean_span=mean_span), evaluators=(OtherSource(),))


def byt5(scale):
    """Deep encoder, spans of 20 bytes."""
    return bytes_(scale, {"smoke": ((3, 1), 64, 160), "small": ((3, 1), 128, 320), "paper": ((12, 4), 1472, 3584)})


def byt5_span3(scale):
    """Spans of 3 bytes."""
    shapes = {"smoke": ((3, 1), 64, 124), "small": ((3, 1), 128, 264), "paper": ((12, 4), 1472, 3584)}
    return bytes_(scale, shapes, 3.0)


def byt5_balanced(scale):
    """Encoder and decoder of equal depth."""
    return bytes_(scale, {"smoke": ((2, 2), 64, 84), "small": ((2, 2), 128, 204), "paper": ((8, 8), 1472, 3584)})


def mt5(scale, mean_span=3.0, wider=0):
    """Subwords: equal depths, spans of 3 subwords."""
    layers, d_model, d_ff, heads, d_kv, vocab, spare = {
        "smoke": ((2, 2), 96, 140, 4, 24, 512, 16),
        "small": ((2, 2), 192, 344, 4, 48, 1024, 16),
        "paper": ((8, 8), 512, 1024, 6, 64, 250_000, 112),
    }[scale]
    model = t5(vocab + spare, layers, d_model, d_ff + wider, heads, d_kv)
    tokenizer = BPE(vocab, BYTES_PER_TOKEN[scale])
    corruption = spans(scale, mean_span=mean_span)
    return SETUPS[scale].run(model, tokenizer=tokenizer, corruption=corruption, evaluators=(OtherSource(),))


def mt5_same_gaps(scale):
    """Spans of as many bytes as ByT5's. Fewer spans have fewer sentinels, and so the MLPs are wider."""
    wider = {"smoke": 16, "small": 36, "paper": 0}[scale]
    return mt5(scale, round(spans(scale).mean_span / BYTES_PER_TOKEN[scale], 1), wider)


PARAMETERS = "matched in parameters, as in the paper, not in FLOPs per byte."
ARMS = (
    Arm("byt5", "ByT5", byt5),
    Arm("mt5", "mT5 (BPE)", mt5, notes={"paper": PARAMETERS}),
    Arm("mt5_same_gaps", "mT5 (BPE), spans as long as ByT5's", mt5_same_gaps, notes={"paper": PARAMETERS}),
    Arm("byt5_span3", "ByT5, spans of 3 bytes", byt5_span3, notes={"paper": PARAMETERS}),
    Arm("byt5_balanced", "ByT5, depths 1:1", byt5_balanced, notes={"paper": PARAMETERS}),
)
NAMES = tuple(arm.name for arm in ARMS)

NOISES = ("drop", "repeat", "antspeak", "upper_case", "random_case")
TABLE_6 = Table(
    name="table6",
    title="Bits per byte written, clean and perturbed (Table 6, Large)",
    arms=NAMES,
    reported_columns=(
        Column("clean", "Clean", "XNLI, %", "higher", 1),
        Column("drop", "Drop", "change, points", "higher", 1),
        Column("repeat", "Repeat", "change, points", "higher", 1),
        Column("antspeak", "Antspeak", "change, points", "higher", 1),
        Column("upper_case", "Upper case", "change, points", "higher", 1),
        Column("random_case", "Random case", "change, points", "higher", 1),
    ),
    reported={
        "mt5": dict(zip(("clean", *NOISES), (81.1, -18.3, -12.3, -34.4, -8.1, -19.2), strict=True)),
        "byt5": dict(zip(("clean", *NOISES), (79.7, -11.4, -5.9, -24.4, -1.7, -5.9), strict=True)),
    },
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte read", None, 3),
        Column("bpb", "Test", "bits per byte written", "lower", 3),
        Column("clean", "Clean excerpts", "bits per byte written", "lower", 3),
        *(Column(key, key.replace("_", " ").capitalize(), "bits per byte written", "lower", 3) for key in NOISES),
        Column("cost", "Mean - clean", "bits per byte written", "lower", 3),
    ),
    source="arXiv 2105.13626, Table 6, Large: XNLI, noise unseen in training, change from clean",
    note="Measured: bits to write what is asked for of clean and perturbed excerpts. The paper's metric is another one, "
    "so that only orders can be compared. Spans of another length are another task: compare ByT5 with the mT5 whose "
    "spans are as long. Noise makes subwords shorter, and so mT5's gaps.",
)

REPORTED_8 = (
    Column("xnli", "XNLI", "zero-shot, %", "higher", 1),
    Column("tydiqa", "TyDiQA", "F1", "higher", 1),
    Column("xsum", "XSum", "BLEU", "higher", 1),
)
MEASURED_8 = (
    Column("parameters", "Parameters", "", None, 0),
    Column("mflops_per_byte", "MFLOPs", "per byte read", None, 3),
    Column("steps_per_second", "Steps", "per second", "higher", 2),
    Column("bpb", "Test", "bits per byte written", "lower", 3),
    Column("own_source", "Own source", "bits per byte, 12 batches", "lower", 3),
    Column("other_source", "Another's", "bits per byte, 12 batches", None, 3),
)
TABLE_8 = Table(
    name="table8",
    title="Spans (Table 8, Large)",
    arms=("byt5", "mt5", "mt5_same_gaps", "byt5_span3"),
    reported_columns=REPORTED_8,
    reported={
        "byt5": {"xnli": 79.7, "tydiqa": 87.7, "xsum": 11.5},
        "mt5": {"xnli": 81.1, "tydiqa": 85.3, "xsum": 10.1},
        "byt5_span3": {"xnli": 79.4, "tydiqa": 87.4, "xsum": 10.2},
    },
    measured=MEASURED_8,
    source="arXiv 2105.13626, Table 8: ByT5-Large, mT5-Large, span 3",
)
TABLE_8_DEPTHS = Table(
    name="table8_depths",
    title="Depths (Table 8, smaller models)",
    arms=("byt5", "byt5_balanced"),
    reported_columns=REPORTED_8,
    reported={
        "byt5": {"xnli": 78.3, "tydiqa": 87.8, "xsum": 12.3},
        "byt5_balanced": {"xnli": 75.4, "tydiqa": 83.0, "xsum": 7.1},
    },
    measured=MEASURED_8,
    source="arXiv 2105.13626, Table 8: 36/12 layers of 668M parameters, 24/24 of 718M",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(TABLE_6, TABLE_8, TABLE_8_DEPTHS),
    anchor="byt5",
)
