"""MWT: multi-word tokenization for sequence compression (Gee et al., EMNLP 2023).

The paper's claim: frequent pairs and triples of words as single tokens shorten sequences, and a model that is
fine-tuned with them, their vectors made of those of their pieces, loses next to nothing and reads more of a text that
is cut.

    lmlab table mwt --scale smoke
    lmlab table mwt --scale small [--corpus PATH]
    lmlab show mwt --scale paper

Pairs and triples of words are counted in the training text, documentation in English, and the most frequent become
tokens before BPE is asked. Three things are measured. How much shorter that makes text, by how many there are, with no
model trained. What models from scratch make of it at equal FLOPs per byte: BPE, BPE with as many ids as both together,
and BPE with multi-word tokens. And what the paper does: a trained model goes on with them, as it is and after a short
training, their rows being means of their pieces' (fast vocabulary transfer, FVT) or drawn at random; the model that
goes on without them says what the training alone brings.

The paper classifies and tags texts of medicine, law and patents; here is only language modelling, so that multi-word
tokens are also written: their rows in the head are made as those in the embedding. It has 1,000, 2,500 and 5,000
multi-word tokens; its smaller vocabularies of the domain and its distilled students are left out. At paper scale the
model is of GPT-2's size, which is chosen here.
"""

import dataclasses

from lmlab.comparison import PROSE_SETUPS, Setup, quarters
from lmlab.data.library_parts import LibraryPart
from lmlab.evaluation.vocabulary import Compression
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.objectives.transferred import Transferred
from lmlab.text.bpe import BPE
from lmlab.text.multi_word import MultiWord
from lmlab.text.pairs import Beside

PAPER = Paper(
    title="Multi-Word Tokenization for Sequence Compression",
    year=2023,
    url="EMNLP 2023, industry track",
    claim="The most frequent word pairs and triples as tokens, their vectors from those of their pieces, shorten "
    "sequences at next to no loss.",
)

SETUPS = PROSE_SETUPS | {
    "paper": Setup(LibraryPart(), 10_000_000_000, 2**20, 4096, 1024, 3e-4, 1_000_000, "bfloat16"),
}
STEPS = {"smoke": 40, "small": 80, "paper": 2_000}  # that a trained model goes on for
BASES = {"smoke": BPE(512, 1.65), "small": BPE(1024, 2.39), "paper": BPE(32_000, 4.0)}
LARGER = {"smoke": BPE(640, 1.75), "small": BPE(1536, 2.64), "paper": BPE(34_500, 4.05)}
PHRASES = {"smoke": 128, "small": 512, "paper": 2500}
MULTI = {s: MultiWord(BASES[s], PHRASES[s], b) for s, b in {"smoke": 1.67, "small": 2.49, "paper": 4.5}.items()}
COUNTS = {"few": (64, 512, 1000), "some": (128, 1024, 2500), "many": (256, 2048, 5000)}
WIDTH = {"smoke": (2, 64, 2), "small": (4, 128, 4), "paper": (12, 768, 12)}


def model(scale, tokenizer, d_ff=None):
    """Of the scale's layers and width."""
    layers, width, heads = WIDTH[scale]
    return LanguageModel(tokenizer.vocab_size, transformer(layers, width, d_ff, heads), tied=scale == "paper")


def scratch(tokenizers, widths=None):
    """scale -> Run from nothing, its MLPs as wide as the FLOPs of the base leave room for."""

    def run(scale):
        tokenizer = tokenizers[scale]
        length = round(SETUPS[scale].length / tokenizer.bytes_per_token)  # so that rows are of as many bytes
        return SETUPS[scale].run(model(scale, tokenizer, widths and widths[scale]), tokenizer=tokenizer, length=length)

    return run


base = scratch(BASES)


def extended(method, trained=True):
    """scale -> Run of the base model with multi-word tokens, their rows by `method`; None: without them."""

    def run(scale):
        setup, objective = SETUPS[scale], Transferred(teacher=base(scale), method=method or "fvt")
        tokenizer = Beside(MULTI[scale], BASES[scale], 1.25) if method else BASES[scale]
        own = model(scale, tokenizer)
        if not trained:
            return setup.untrained(own, tokenizer, objective=objective)
        steps = STEPS[scale]
        made = setup.run(own, tokenizer=tokenizer, objective=objective)
        return dataclasses.replace(made, **quarters(steps))

    return run


def compression(which):
    """scale -> Study of so many multi-word tokens beside none; None: none."""

    def study(scale):
        bpe = BASES[scale]
        number = which and COUNTS[which][("smoke", "small", "paper").index(scale)]
        tokenizer = MultiWord(bpe, number, bpe.bytes_per_token) if number else bpe
        return Compression(SETUPS[scale].corpus, tokenizer=tokenizer, beside=bpe if number else None)

    return study


TIMES = {"smoke": 1.05, "small": 1.05, "paper": 0.9}  # of the base's FLOPs per byte, with more rows and fewer positions
NOTES = {scale: f"not matched: planned are {times} times the base's FLOPs per byte" for scale, times in TIMES.items()}
GOES_ON = dict(size="goes on")
EXTENDED = dict(size="goes on", notes=NOTES)
ARMS = (
    Arm("bpe", "BPE", base),
    Arm("bpe_larger", "BPE, as many ids", scratch(LARGER, {"smoke": 232, "small": 392, "paper": 2048})),
    Arm("mwt", "BPE and multi-word tokens", scratch(MULTI, {"smoke": 232, "small": 344, "paper": 2688})),
    Arm("continued", "Goes on without", extended(None), **GOES_ON),
    Arm("fvt_untrained", "FVT, untrained", extended("fvt", False), **EXTENDED),
    Arm("random_untrained", "Random, untrained", extended("random", False), **EXTENDED),
    Arm("fvt", "FVT", extended("fvt"), **EXTENDED),
    Arm("random", "Random", extended("random"), **EXTENDED),
    Arm("none", "No multi-word tokens", compression(None)),
    *(Arm(name, f"{name.capitalize()} multi-word tokens", compression(name)) for name in COUNTS),
)

COMPRESSION = Table(
    name="compression",
    title="How much shorter multi-word tokens make text",
    arms=("none", *COUNTS),
    measured=(
        Column("vocabulary", "Vocabulary", "ids", None, 0),
        Column("bytes_per_token", "Token", "bytes", "higher", 2),
        Column("saved", "Saved", "% of tokens", "higher", 1),
        Column("phrases", "Phrases", "% of tokens", None, 1),
        Column("types", "Types", "% of ids in the text", None, 1),
        Column("unigram_bpb", "Unigram", "bits per byte", "lower", 3),
    ),
    note="Of the test split. Unigram: by the frequencies of the text itself.",
)
MODELS = (
    Column("mflops_per_byte", "MFLOPs", "per byte, measured", None, 3),
    Column("bytes_per_token", "Token", "bytes", None, 2),
    Column("validation_bpb", "Validation", "bits per byte", "lower", 3),
    Column("bpb", "Test", "bits per byte", "lower", 3),
)
SCRATCH = Table(
    name="scratch",
    title="From nothing, at matched FLOPs per byte",
    arms=("bpe", "bpe_larger", "mwt"),
    measured=MODELS,
)
EXTENSION = Table(
    name="extension",
    title="A trained model with multi-word tokens",
    arms=("bpe", "continued", "fvt_untrained", "random_untrained", "fvt", "random"),
    measured=MODELS,
    source="the paper's tables of classification and tagging were not to be had",
    note="The first row is the model as it was. Ten steps at a rate of 1e-6 stand for no training. Those that go on "
    "see as many bytes, FLOPs are not matched: with multi-word tokens, planned are "
    f"{' / '.join(f'{times} ({scale})' for scale, times in TIMES.items())} times the base's FLOPs per byte.",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(COMPRESSION, SCRATCH, EXTENSION),
    anchor="bpe",
)
