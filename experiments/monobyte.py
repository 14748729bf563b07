"""MonoByte: a pool of monolingual byte-level language models (2022; known here by its abstract).

Byte models know no unseen tokens, so that one pretrained on any text can go on with any other. The paper releases ten
monolingual models of one configuration and two pretrained on text without meaning, to ask what transfers. Here: the
same small byte-level T5 is pretrained on English, on code, on nested brackets, on random bytes or on nothing, and then
trained on English, all for equal steps.

    lmlab table monobyte --scale smoke
    lmlab table monobyte --scale small
    lmlab table monobyte --scale small --corpus PATH      another column of the transfer matrix: then trained on PATH

English is the documentation inside Python's standard library, code its sources without that: every machine has both,
and they share no text. Pretrained on English and then trained on it, a model has seen the same text for twice the
steps.
"""

import dataclasses

from lmlab.comparison import SPAN_SETUPS, Setup, following, spans
from lmlab.data.library_parts import LibraryPart
from lmlab.data.synthetic import Brackets, RandomBytes
from lmlab.evaluation.other_source import OtherSource
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.encoder_decoder import t5

PAPER = Paper(
    title="MonoByte: A Pool of Monolingual Byte-level Language Models",
    year=2022,
    url="abstract only; the release is of 2022",
    claim="Monolingual byte models are competitive with the multilingual one, and without unseen tokens they serve to study "
    "what transfers between languages.",
)

SETUPS = {
    "smoke": dataclasses.replace(SPAN_SETUPS["smoke"], corpus=LibraryPart(4_000_000)),
    "small": dataclasses.replace(SPAN_SETUPS["small"], train_bytes=2_000_000, corpus=LibraryPart(None, 0.01, 0.1)),
    "paper": Setup(LibraryPart(), 65_000_000_000, 2**20, 1024, 1024, 1e-3, 1_000_000, "bfloat16"),
}
SHAPES = {
    "smoke": (288, (3, 1), 64, 128, 4, 16),
    "small": (288, (3, 1), 128, 256, 4, 32),
    "paper": (384, (12, 4), 1472, 3584, 6, 64),
}


def pretrained(part=None, synthetic=None):
    """scale -> Run that comes after one on a part of the library, on a synthetic corpus, or after none."""

    def run(scale):
        second = SETUPS[scale].run(t5(*SHAPES[scale]), corruption=spans(scale), evaluators=(OtherSource(),))
        if part is None and synthetic is None:
            return second
        corpus = synthetic or dataclasses.replace(second.corpus, part=part)
        return following(dataclasses.replace(second, corpus=corpus), second)

    return run


ARMS = (
    Arm("nothing", "Nothing", pretrained()),
    Arm("random_bytes", "Random bytes", pretrained(synthetic=RandomBytes())),
    Arm("brackets", "Nested brackets", pretrained(synthetic=Brackets())),
    Arm("code", "Code", pretrained("code")),
    Arm("english", "English", pretrained("prose")),
)

TABLE = Table(
    name="transfer",
    title="What pretraining is worth: then trained on English",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("train_bytes", "Trained on", "bytes written", None, 0),
        Column("validation_bpb", "Validation", "bits per byte written", "lower", 3),
        Column("bpb", "Test", "bits per byte written", "lower", 3),
        Column("own_source", "Own source", "bits per byte, 12 batches", "lower", 3),
        Column("other_source", "Another's", "bits per byte, 12 batches", None, 3),
        Column("cost", "Perturbation", "bits per byte written over clean", "lower", 3),
    ),
    note="The paper evaluates question answering and inference across languages; it has no table of this task.",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(TABLE,),
    anchor="nothing",
)
