"""HAT: hierarchical autoregressive transformers (Neitemeier et al. 2025, arXiv 2501.10322).

The paper's claim: an encoder within words, a backbone over words and a decoder within words match a transformer over
BPE tokens at equal compute, are much more robust to perturbed text, and, trained on in another language, learn it
almost twice as fast and forget less.

    lmlab table hat --scale smoke
    lmlab table hat --scale small --set evaluators.3.path=FOLDER
    lmlab show hat --scale paper        the paper's 1B models

FOLDER holds text in another language than the corpus, in any of the formats that a corpus has; without it the models
are trained on with the text that they know, and nothing should be forgotten. The tokenizer of the BPE arm stays the
one of the first language, as in the paper.

The arms differ in what is read: BPE tokens; or words, cut at white space (the paper's rule), by the rule that its
authors released later (Unicode's words, punctuation, camelCase), or every 8 bytes, which is no word at all. Sizes at
paper scale are those of Table 2 (1B) with heads of 128 channels and learning rates by its rule, 3e-4 * 32 / heads. Of
the paper's text unknown and chosen here: the limit of a word in bytes, and bytes per word of the released rule (as
measured on English books). The paper writes [W] as a byte that UTF-8 does not use; here it is an id of its own, so
that every byte string survives.
"""

import dataclasses

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.evaluation.next_word import NextWord
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, perturbed
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.words import word_model
from lmlab.text.bpe import BPE
from lmlab.text.words import SpaceWords, UnicodeWords, Unsplit, Words
from lmlab.training.continued import Continued
from lmlab.training.optimizers import Cosine

PAPER = Paper(
    title="Hierarchical Autoregressive Transformers: Combining Byte- and Word-Level Processing for Robust, Adaptable "
    "Language Models",
    year=2025,
    url="arXiv 2501.10322",
    claim="Byte encoders and decoders within words around a backbone over words match BPE transformers, are more robust "
    "to perturbed text, and adapt to another language almost twice as fast while forgetting less.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 160_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 3e-3, 40_000),
    # 72,000 steps of 1024 rows of 16,384 bytes of DCLM-Baseline; --corpus PATH reads a folder of it.
    "paper": Setup(StandardLibrary(), 72_000 * 2**24, 2**24, 2**14, 3977, 6.0e-4, 1_000_000, "bfloat16"),
}
CONTINUED = {"smoke": Continued(steps=4, max_bytes=10_000), "small": Continued(steps=60), "paper": Continued(steps=5000)}
WARMUP = {"smoke": 0.1, "small": 0.1, "paper": 500 / 72_000}

# Nominal compression: on the default corpus as measured, at paper scale as reported (5.97 bytes per word, 4.12 a token).
BYTES_PER_TOKEN = {"smoke": 2.05, "small": 2.55, "paper": 4.12}
LIMIT = {"smoke": 15, "small": 31, "paper": 63}  # bytes of the longest word
BYTES_PER_WORD = {
    "space": {"smoke": 8.3, "small": 10.2, "paper": 5.97},
    "unicode": {"smoke": 4.8, "small": 4.9, "paper": 5.03},
    "unsplit": {"smoke": 8.0, "small": 8.0, "paper": 8.0},
}
CAPACITY = {"smoke": 2.5, "small": (1.75, 3.0), "paper": 1.5}  # chunk slots over the planned number


def run(scale, model, tokenizer, multipliers, learning_rate):
    """The setup's run with the paper's schedule, its word accuracy, and training on in another language."""
    run = SETUPS[scale].run(model, multipliers, tokenizer)
    schedule = Cosine(WARMUP[scale], 0.1)
    rate = learning_rate if scale == "paper" else run.optimizer.learning_rate
    return dataclasses.replace(
        run,
        optimizer=dataclasses.replace(run.optimizer, schedule=schedule, learning_rate=rate),
        evaluators=(*run.evaluators, NextWord(max_bytes=SETUPS[scale].robustness_bytes), CONTINUED[scale]),
    )


def bpe_transformer(scale):
    """Transformer over BPE tokens."""
    backbone, vocab = {
        "smoke": (transformer(2, 128, 256, n_heads=4), 512),
        "small": (transformer(2, 192, 512, n_heads=4), 1024),
        "paper": (transformer(16, 2048, 5504), 65_536),
    }[scale]
    tokenizer = BPE(vocab, BYTES_PER_TOKEN[scale])
    return run(scale, LanguageModel(vocab, backbone), tokenizer, (1.0,), 3e-4 * 32 / 16)


def hat(scale, splitter, rule, main, limit=None):
    """A word model; `main`: the backbone by scale. Encoder and decoder are the same for every rule."""
    tokenizer = Words(splitter, limit or LIMIT[scale], BYTES_PER_WORD[rule][scale])
    width, d_ff, n_heads, layers = {
        "smoke": (48, 128, 4, 1), "small": (64, 192, 4, 1), "paper": (768, 2048, 6, 3)
    }[scale]
    backbone = word_model(tokenizer, width, d_ff, n_heads, layers, layers, main, CAPACITY[scale])
    return run(scale, LanguageModel(tokenizer.vocab_size, backbone), tokenizer, (1.0, 1.0), 3e-4 * 32 / 18)


def hat_space(scale):
    """Words end behind white space."""
    main = {"smoke": (2, 256, 512, 4), "small": (9, 192, 512, 4), "paper": (18, 2304, 6144, 18)}[scale]
    return hat(scale, SpaceWords(), "space", transformer(*main))


def hat_unicode(scale):
    """Words by the released rule."""
    main = {"smoke": (2, 192, 384, 4), "small": (4, 192, 512, 4), "paper": (18, 2304, 6144, 18)}[scale]
    return hat(scale, UnicodeWords(), "unicode", transformer(*main))


def hat_8_bytes(scale):
    """A "word" every 8 bytes."""
    main = {"smoke": (2, 256, 512, 4), "small": (7, 192, 512, 4), "paper": (18, 2304, 6144, 18)}[scale]
    return hat(scale, Unsplit(), "unsplit", transformer(*main), limit=8)


NOTE = "the paper's own 1B layout. Its FLOPs per byte are not the BPE transformer's; its time per step is (0.9 s)."
ARMS = (
    Arm("bpe_transformer", "Transformer (BPE)", bpe_transformer),
    Arm("hat_space", "HAT (white space)", hat_space, notes={"paper": NOTE}),
    Arm("hat_unicode", "HAT (Unicode words)", hat_unicode),
    Arm("hat_8_bytes", "HAT (8 bytes)", hat_8_bytes, notes={"paper": NOTE}),
)
NAMES = tuple(arm.name for arm in ARMS)

TABLE_1 = Table(
    name="table1",
    title="Words against BPE tokens (Table 1, 1B)",
    arms=NAMES,
    reported_columns=(
        Column("word", "Words", "accuracy, %", "higher", 1),
        Column("byte", "Bytes", "accuracy, %", "higher", 1),
        Column("lambada", "LAMBADA", "OpenAI's, %", "higher", 1),
        Column("hellaswag", "HellaSwag", "accuracy, %", "higher", 1),
    ),
    reported={
        "bpe_transformer": {"word": 35.3, "lambada": 57.7, "hellaswag": 46.2},
        "hat_space": {"word": 35.5, "byte": 83.7, "lambada": 64.6, "hellaswag": 46.5},
        "hat_8_bytes": {"byte": 82.6, "lambada": 57.3, "hellaswag": 43.8},
    },
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured chunks", None, 3),
        Column("bytes_per_chunk", "Chunk", "bytes", None, 2),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        Column("next_word", "Next word", "accuracy, %", "higher", 1),
    ),
    source="arXiv 2501.10322v2, Table 1, 1B: 1.2T bytes of DCLM-Baseline",
    note="Next word, measured: words between white space, alike for every arm. The paper counts its own words.",
)

FIGURE_4 = Table(
    name="figure4",
    title="Robustness to perturbed text (Figure 4, 1B)",
    arms=("bpe_transformer", "hat_space", "hat_unicode", "hat_8_bytes"),
    reported_columns=(
        Column("permuted", "10% permuted", "points of accuracy", "higher", 2),
        Column("replaced", "10% replaced", "points of accuracy", "higher", 2),
        Column("deleted", "10% deleted", "points of accuracy", "higher", 2),
        Column("caps", "All caps", "points of accuracy", "higher", 2),
    ),
    reported={
        "bpe_transformer": {"permuted": -2.80, "replaced": -3.86, "deleted": -2.97, "caps": -3.72},
        "hat_space": {"permuted": -1.32, "replaced": -2.69, "deleted": -2.16, "caps": -1.46},
    },
    measured=perturbed(),
    source="arXiv 2501.10322v2, Figure 4, 1B: change in accuracy, read off the drawing",
    note="Measured: bits per byte of perturbed excerpts, H-Net's five perturbations; only orders can be compared.",
)

TABLE_6 = Table(
    name="table6",
    title="Trained on in another language (Table 6, 3B)",
    arms=NAMES,
    reported_columns=(Column("skypile", "SkyPile", "bits per byte", "lower", 2),),
    reported={"bpe_transformer": {"skypile": 0.94}, "hat_unicode": {"skypile": 0.80}},
    measured=(
        Column("target/before", "Before", "bits per byte", "lower", 3),
        Column("target/half", "Half way", "bits per byte", "lower", 3),
        Column("target/after", "After", "bits per byte", "lower", 3),
        Column("forgotten", "Forgotten", "bits per byte of the first", "lower", 3),
    ),
    source="arXiv 2501.10322v2, Table 6: 3B, 5,000 steps of Chinese (SkyPile) after English",
    note="The other language is that of the files at evaluators.3.path; without one the text is the corpus' own.",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(TABLE_1, FIGURE_4, TABLE_6),
    anchor="bpe_transformer",
)
