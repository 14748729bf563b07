"""MrT5: dynamic token merging for efficient byte-level language models (Kallini et al. 2025, arXiv 2410.20771).

A gate behind an early layer of ByT5's encoder says which positions later layers and the decoder may forget. In
training they stay, with scores lowered by up to 30 (soft deletion), under softmax_1; at inference they are taken out
(hard deletion). A PI controller holds the share of deleted positions at a target. The question of its Figure 2: at
equal rates, is what the gate deletes better chosen than chance, or than the ends of words?

    lmlab table mrt5 --scale smoke
    lmlab table mrt5 --scale small
    lmlab show mrt5 --scale paper       the paper's own sizes

As in the paper all arms, that without a gate too, go on from one trained ByT5, under softmax_1 and a rate that falls to
nothing: there from the released one, here from one that the same command trains first. With `--corpus PATH` they go on
with PATH; the ByT5 before keeps the standard library. Soft bits per byte are as trained, hard ones with the positions
really gone; both of what the decoder writes.
"""

import dataclasses

from lmlab.comparison import SPAN_SETUPS, Setup, following, spans
from lmlab.data.corpora import StandardLibrary
from lmlab.evaluation.deletion import HardDeletion
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.deletion import DeletingEncoder, LearnedGate, RandomGate, WordEndGate
from lmlab.models.encoder_decoder import t5
from lmlab.objectives.deletion import DeletionRate
from lmlab.training.optimizers import AdamW, Linear

PAPER = Paper(
    title="MrT5: Dynamic Token Merging for Efficient Byte-level Language Models",
    year=2025,
    url="arXiv 2410.20771",
    claim="An encoder that learns which bytes to delete early is much faster with minimal effect on performance, and "
    "deletes better than chance or rules at the same rate.",
)

# Of the ByT5 before.
SETUPS = SPAN_SETUPS | {
    "paper": Setup(StandardLibrary(), 2**20 * 1_000_000, 2**20, 1024, 1024, 1e-3, 1_000_000, "bfloat16"),
}
FURTHER = {"smoke": (160_000, 1e-3), "small": (1_500_000, 1e-3), "paper": (5_000 * 2**20, 1e-4)}  # bytes, learning rate
SHAPES = {  # vocabulary with room for sentinels, (encoder, decoder) layers, d_model, d_ff, heads, d_kv
    "smoke": (288, (3, 1), 64, 128, 4, 16),
    "small": (288, (3, 1), 128, 256, 4, 32),
    "paper": (384, (12, 4), 1472, 3584, 6, 64),
}
BEFORE = {"smoke": 1, "small": 1, "paper": 3}  # layers before the gate
# Of the controller, k_p and k_i, which is larger where there are fewer steps to sum the error over: at small the paper's
# times the ratio of the steps falls short of the rate.
CONTROL = {"smoke": (0.5, 1e-3), "small": (0.5, 3e-3), "paper": (0.5, 1e-5)}


def further(scale, model, **changes):
    """ByT5, going on as `model`."""
    bytes_, rate = FURTHER[scale]
    setup = dataclasses.replace(SETUPS[scale], train_bytes=bytes_)
    first = SETUPS[scale].run(t5(*SHAPES[scale]), corruption=spans(scale))
    return following(first, setup.run(model, optimizer=AdamW(rate, Linear()), corruption=spans(scale), **changes))


def byt5(scale):
    """Nothing deleted."""
    return further(scale, t5(*SHAPES[scale], null=True))


def deleting(scale, gate, **changes):
    """A model with this gate."""
    model = t5(*SHAPES[scale], null=True, encoder=DeletingEncoder, gate=gate, before=BEFORE[scale])
    return further(scale, model, evaluators=(HardDeletion(),), **changes)


def mrt5(target):
    """The learned gate, its rate controlled."""
    return lambda scale: deleting(
        scale, LearnedGate(SHAPES[scale][2]), objective=DeletionRate(target, *CONTROL[scale], excess=5.0)
    )


def by_chance(rate):
    """Random positions."""
    return lambda scale: deleting(scale, RandomGate(rate))


def by_rule(rate):
    """The ends of words."""
    return lambda scale: deleting(scale, WordEndGate(rate))


ARMS = (
    Arm("byt5", "ByT5", byt5),
    Arm("mrt5_30", "MrT5, 30%", mrt5(0.3)),
    Arm("random_30", "at random, 30%", by_chance(0.3)),
    Arm("fixed_30", "ends of words, 30%", by_rule(0.3)),
    Arm("mrt5_50", "MrT5, 50%", mrt5(0.5)),
    Arm("random_50", "at random, 50%", by_chance(0.5)),
    Arm("fixed_50", "ends of words, 50%", by_rule(0.5)),
)
NAMES = tuple(arm.name for arm in ARMS)

FIGURE_2 = Table(
    name="figure2",
    title="Bits per byte at a share of deleted positions (Figure 2)",
    arms=NAMES,
    reported_columns=(
        Column("reduction", "Deleted", "%, mean of 15 languages", None, 1),
        Column("bpb", "mC4", "bits per byte", "lower", 3),
    ),
    reported={
        "byt5": {"reduction": 0.0, "bpb": 0.962},
        "mrt5_30": {"reduction": 33.7, "bpb": 0.993},
        "random_30": {"bpb": 1.104},
        "fixed_30": {"reduction": 25.8, "bpb": 1.192},
        "mrt5_50": {"reduction": 49.5, "bpb": 1.021},
        "random_50": {"bpb": 1.236},
        "fixed_50": {"reduction": 44.6, "bpb": 1.364},
    },
    measured=(
        Column("deleted", "Deleted", "share of positions", None, 3),
        Column("bpb", "Soft", "bits per byte written", "lower", 3),
        Column("hard_bpb", "Hard", "bits per byte written", "lower", 3),
        Column("mflops_per_byte", "MFLOPs", "per byte read, in training", None, 3),
        Column("hard_mflops", "MFLOPs", "per byte read, hard", "lower", 3),
        Column("cost", "Perturbation", "bits per byte written over clean", "lower", 3),
    ),
    note="Hard: kept positions keep what their gate takes from their scores, which the released code drops there.",
    source="arXiv 2410.20771v3, Figure 2, digitised (about 0.003 bits per byte): ByT5 Small after 5,000 further steps",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(FIGURE_2,),
    anchor="byt5",
)
