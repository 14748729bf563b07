"""MrT5's diagnostic tasks (Kallini et al. 2025, arXiv 2410.20771, Table 2): which positions does a gate give up, where it is
known which of them the task can spare?

    lmlab table mrt5_tasks --scale smoke
    lmlab table mrt5_tasks --scale small
    lmlab show mrt5_tasks --scale paper      the paper's own sizes

The paper's claim: the gate finds what is of no use. Strings of random letters are to be written without their vowels; without
those vowels alone that stand behind a consonant in lower case, so that no letter tells by itself; and with D for every ABC.
The stronger the pull on the gate, the more is deleted, at next to no cost.

Nothing pulls for the first third of the steps, as in the paper; large scores have their price from the start, without which
whole strings were deleted softly and read all the same. Strings are drawn as by the paper's code: evenly from both cases,
some pairs of a consonant and a vowel, or some ABC, planted in the second and in the third task; it begins each with a mark,
which these do not have. A letter of an ABC counts as one that the task can spare, and two thirds of them as the share. The
gate's place is chosen here. What is right is counted with the positions really gone.
"""

from lmlab.comparison import LOST
from lmlab.data.letters import Letters, Merged, WithoutVowels
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.evaluation.deletion import Aim, HardDeletion
from lmlab.evaluation.rewriting import RightRewritten
from lmlab.experiment import Arm, Column, Experiment, Paper, Run, Table
from lmlab.models.deletion import DeletingEncoder, LearnedGate
from lmlab.models.encoder_decoder import t5
from lmlab.objectives.deletion import DeletionPull
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.optimizers import AdamW, Linear

PAPER = Paper(
    title="MrT5: Dynamic Token Merging for Efficient Byte-level Language Models: diagnostic tasks",
    year=2025,
    url="arXiv 2410.20771",
    claim="The delete gate learns which positions a task can spare, those that only their context tells too, without harm "
    "to what is written.",
)

# Layers of encoder and decoder, width, MLP, heads, their width; strings, their length, rows; steps, rate.
SIZES = {
    "smoke": ((2, 1), 48, 96, 4, 12, (2000, 15, 64), (60, 5e-3)),
    "small": ((2, 2), 64, 128, 4, 16, (40_000, 15, 64), (1500, 5e-3)),
    "paper": ((3, 3), 512, 1024, 4, 64, (1_600_000, 62, 128), (30_000, 1e-4)),
}
# task: how letters are rewritten, and the paper's weights of the pull.
TASKS = {
    "vowels": (WithoutVowels(), (1e-4, 1e-3)),
    "some_vowels": (WithoutVowels(behind_consonants=True), (1e-3, 1e-2)),
    "merge": (Merged(), (1e-2, 1.5e-2)),
}
PLANTED = {"vowels": None, "some_vowels": "pairs", "merge": "triples"}


def rewriting(scale, task, model, evaluators, **changes):
    """The Run of one model on one task."""
    *_, (count, size, rows), (steps, rate) = SIZES[scale]
    rewritten = TASKS[task][0]
    return Run(
        model=model,
        corpus=Letters(count, size, PLANTED[task]),
        tokenizer=ByteTokenizer(),
        optimizer=AdamW(rate, Linear(0.1)),
        steps=steps,
        batch_size=rows,
        length=size + 1,
        corruption=rewritten,
        evaluators=(BitsPerByte("test"), *evaluators),
        evaluate_every=steps // 2,
        checkpoint_every=min(steps // 2, LOST),
        **changes,
    )


def shape(scale):
    """Of the model: ids, layers, widths."""
    return (256, *SIZES[scale][:5])


def plain(task):
    """T5, which deletes nothing."""
    return lambda scale: rewriting(scale, task, t5(*shape(scale), null=True), (RightRewritten(),))


def deleting(task, strength):
    """MrT5 under the weaker (0) or the stronger (1) pull."""

    def run(scale):
        width, steps = SIZES[scale][1], SIZES[scale][6][0]
        model = t5(
            *shape(scale), null=True, encoder=DeletingEncoder, gate=LearnedGate(width), before=SIZES[scale][0][0] // 2
        )
        weight = TASKS[task][1][strength]
        evaluators = RightRewritten(hard=True), HardDeletion(), Aim()
        return rewriting(scale, task, model, evaluators, objective=DeletionPull(weight, steps // 3, excess=5.0))

    return run


LABELS = {"vowels": "vowels", "some_vowels": "vowels behind consonants", "merge": "ABC to D"}
ARMS = tuple(
    arm
    for task, label in LABELS.items()
    for arm in (
        Arm(f"{task}_t5", f"T5, {label}", plain(task)),
        Arm(f"{task}_weak", f"MrT5, {label}, weaker pull", deleting(task, 0)),
        Arm(f"{task}_strong", f"MrT5, {label}, stronger pull", deleting(task, 1)),
    )
)
PAPERS = {  # tokens right, strings right, % shorter
    "vowels": ((100.00, 99.93, 0.0), (100.00, 99.92, 18.58), (100.00, 99.92, 20.15)),
    "some_vowels": ((100.00, 99.91, 0.0), (100.00, 99.78, 1.56), (99.99, 99.72, 18.97)),
    "merge": ((100.00, 99.84, 0.0), (99.99, 99.44, 10.15), (99.98, 99.19, 17.37)),
}
TABLE_2 = Table(
    name="table2",
    title="Strings rewritten, and what is deleted on the way (Table 2)",
    arms=tuple(arm.name for arm in ARMS),
    reported_columns=(
        Column("right_targets", "Tokens", "% right", "higher", 2),
        Column("right", "Strings", "% right", "higher", 2),
        Column("shorter", "Shorter", "%", None, 2),
    ),
    reported={
        f"{task}_{arm}": dict(zip(("right_targets", "right", "shorter"), values, strict=True))
        for task, rows in PAPERS.items()
        for arm, values in zip(("t5", "weak", "strong"), rows, strict=True)
    },
    measured=(
        Column("right_targets", "Tokens", "% right", "higher", 2),
        Column("right", "Strings", "% right", "higher", 2),
        Column("spared", "Spared", "share the task can spare", None, 3),
        Column("deleted", "Deleted", "share of positions", None, 3),
        Column("aimed", "Aimed", "% of deleted that it can spare", "higher", 1),
        Column("bpb", "Soft", "bits per byte", "lower", 4),
        Column("hard_bpb", "Hard", "bits per byte", "lower", 4),
        Column("mflops_per_byte", "MFLOPs", "per byte, in training", None, 3),
        Column("hard_mflops", "MFLOPs", "per byte, hard", "lower", 3),
    ),
    source="arXiv 2410.20771v3, Table 2; weights of the pull 1e-4 and 1e-3, 1e-3 and 1e-2, 1e-2 and 1.5e-2",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE_2,), anchor="vowels_t5"
)
