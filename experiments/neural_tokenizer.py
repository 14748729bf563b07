"""A vocabulary-free multilingual neural tokenizer for end-to-end task learning (Islam et al. 2022, arXiv 2204.10815).

The paper's claim: a tagger of characters that is distilled from a subword tokenizer, on the words of many languages, each
once, and then trained end to end with the model that reads its segments, does better than subwords, above all in
languages with little text, and is more robust to misspellings.

    lmlab table neural_tokenizer --scale smoke
    lmlab table neural_tokenizer --scale small
    lmlab show neural_tokenizer --scale paper

The tagger is the encoder of a hierarchy and its chunker: two Mamba-2 layers (the paper: an LSTM) over bytes, and a
probability that a piece starts at each, tag B. The means of what lies between two starts are what the inner network
reads. It is distilled first, from a BPE of the same text, on unique words; then all of the model is trained as a language
model, whose gradient reaches the tagger through the means (straight through), either with the teacher's pieces still
asked for or without. Beside stand the same without distillation, and a transformer over the teacher's tokens.

LANGUAGES names a folder with a folder of text per language; without, the prose of the standard library is written in three
scripts, one language of equally many bytes each, so that nothing is learned here of languages with little text.

Different from the paper: a language model must not look ahead, so that the tagger reads from left to right, and a start is
known when its first byte is; the task is the text itself in place of inference and sentiment. All sizes are chosen here.
"""

import dataclasses

from lmlab.comparison import Setup, quarters
from lmlab.data.foreign_tokenizer import TrainedOn
from lmlab.data.languages import Languages, UniqueWords
from lmlab.evaluation.tagging import Tagging
from lmlab.evaluation.texts import EachText
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, robustness
from lmlab.models.boundaries import BoundaryPredictor
from lmlab.models.build import hierarchy, transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.segments import PieceMean
from lmlab.models.unpool import Add
from lmlab.objectives.boundaries import Distilled, PieceStarts
from lmlab.objectives.next_token import NextToken
from lmlab.text.bpe import BPE
from lmlab.text.cuts import BPECuts
from lmlab.training.optimizers import hnet_multipliers

PAPER = Paper(
    title="A Vocabulary-Free Multilingual Neural Tokenizer for End-to-End Task Learning",
    year=2022,
    url="arXiv 2204.10815",
    claim="A tagger of characters, distilled from subwords on unique words and trained on with its task, consistently "
    "improves on subwords, with larger gains in low-resource languages and under misspellings.",
)

LANGUAGES = None  # a folder with one folder of text per language
TEXTS = {
    "smoke": Languages(LANGUAGES, 150_000),
    "small": Languages(LANGUAGES, 1_000_000, validation=0.02, test=0.03),
    "paper": Languages(LANGUAGES, 10**9, validation=0.001, test=0.001),
}
SETUPS = {
    "smoke": Setup(TEXTS["smoke"], 160_000, 4096, 256, 106, 3e-3, 10_000),
    "small": Setup(TEXTS["small"], 1_000_000, 4096, 512, 148, 3e-3, 24_000),
    "paper": Setup(TEXTS["paper"], 10**10, 2**19, 2048, 512, 4e-4, 1_000_000, "bfloat16"),
}
BYTES_PER_TOKEN = {"smoke": 2.4, "small": 3.45, "paper": 4.0}  # of the teacher, on this text
IDS = {"smoke": 512, "small": 2048, "paper": 128_000}
# Layout, widths, MLP, heads, state, MLP of the tagger's head, slots over the planned number (None: at every byte).
TAGGED = {
    "smoke": (["m1", ["T1"], "m1"], (32, 64), (0, 256), 2, 16, 32, None),
    "small": (["m2", ["T3"], "m2"], (96, 160), (0, 448), 4, 32, 96, (1.5, 3.0)),
    "paper": (["m4", ["T22"], "m4"], (1024, 1536), (0, 4096), 16, 128, 1024, (1.25, 2.5)),
}
SUBWORDS = {"smoke": (1, 64, 400, 2), "small": (3, 160, 904, 4), "paper": (17, 1536, 4096, 16)}
STEPS = {"smoke": 40, "small": 160, "paper": 4000}  # of the distillation


def subwords(scale):
    """A transformer over the teacher's tokens."""
    layers, width, d_ff, heads = SUBWORDS[scale]
    model, tokenizer = transformer(layers, width, d_ff, heads), BPE(IDS[scale], BYTES_PER_TOKEN[scale])
    return SETUPS[scale].run(LanguageModel(IDS[scale], model), tokenizer=tokenizer, evaluators=(EachText("test"),))


def tagged(scale, objective):
    """The hierarchy on the text."""
    layout, widths, d_ff, heads, d_state, d_head, capacity = TAGGED[scale]
    body = hierarchy(
        layout, widths, d_ff, heads, d_state=d_state, target=BYTES_PER_TOKEN[scale], capacity=(capacity, None),
        chunker=lambda width, target: BoundaryPredictor(width, d_head, target), pool=PieceMean, unpool=Add,
    )
    return SETUPS[scale].run(
        LanguageModel(256, body),
        hnet_multipliers((BYTES_PER_TOKEN[scale],), widths),
        BPECuts(pieces=IDS[scale] - 2),
        (EachText("test"), Tagging("test")),
        objective=objective,
    )


def tagger(scale):
    """Distillation: the teacher is that of the text, the words are each there once. Nothing decays, so that the rest of
    the model stays as it is."""
    run = tagged(scale, Distilled())
    return dataclasses.replace(
        run,
        corpus=UniqueWords(TEXTS[scale]),
        tokenizer=TrainedOn(run.tokenizer, TEXTS[scale]),
        optimizer=dataclasses.replace(run.optimizer, weight_decay=0.0),
        evaluators=(Tagging("test"),),
        **quarters(STEPS[scale]),
    )


def distilled(scale, objective):
    """The text behind the distillation."""
    return dataclasses.replace(tagged(scale, objective), after=tagger(scale))


ARMS = (
    Arm("subwords", "Transformer (BPE)", subwords),
    Arm("tagger", "Tagger, distilled alone", tagger),
    Arm("held", "Distilled, pieces still asked for", lambda scale: distilled(scale, PieceStarts())),
    Arm("end_to_end", "Distilled, then end to end", lambda scale: distilled(scale, NextToken())),
    Arm("undistilled", "End to end from the start", lambda scale: tagged(scale, NextToken())),
)
READERS = ("subwords", "held", "end_to_end", "undistilled")

MODELS = Table(
    name="models",
    title="Bits per byte by who cuts the text",
    arms=READERS,
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured chunks", None, 3),
        Column("bytes_per_chunk", "Segment", "bytes", None, 2),
        Column("computed", "Computed", "training FLOPs over planned", None, 2),
        Column("validation_bpb", "Validation", "bits per byte", "lower", 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        *(Column(f"{t}/bpb", t.capitalize(), "bits per byte", "lower", 3) for t in ("latin", "cyrillic", "ethiopic")),
    ),
    note="Distilled arms have read the words before. Scripts are those of the default text.",
)
TAGS = Table(
    name="tags",
    title="Starts of segments against the first bytes of the teacher's pieces",
    arms=("tagger", "held", "end_to_end", "undistilled"),
    measured=(
        Column("f1", "F1", "%", "higher", 1),
        Column("precision", "Precision", "%", "higher", 1),
        Column("recall", "Recall", "%", "higher", 1),
        Column("f1_inside", "Inside of words", "F1, %", "higher", 1),
        *(Column(f"{t}/f1", t.capitalize(), "F1, %", "higher", 1) for t in ("latin", "cyrillic", "ethiopic")),
    ),
    note="The tagger's row: words that it was not distilled on, each once; the others: running text, behind training on it.",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(MODELS, TAGS, robustness(READERS)),
    anchor="end_to_end",
)
