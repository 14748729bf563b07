"""Tokenization counts: the impact of tokenization on arithmetic in frontier LLMs (2024; known here by its abstract).

The paper's claim: GPT-3.5 and GPT-4, whose numbers are cut into groups of three digits from the left, add much better
where commas force groups from the right; errors follow stereotyped patterns.

    lmlab table tokenization_counts --scale smoke
    lmlab table tokenization_counts --scale small

The paper prompts finished models. Here small transformers of one shape are trained from nothing on additions, the same
for every arm: digits one by one, in groups of two from the left, from the right, or from the left with commas between;
the papers' models group by three. An answer counts if all of it is right; what it costs tells more where few are. Sums
that have a number of more than two digits are counted apart by what groups from the left do: where addends and answer
are of one length, groups stand for the same places in all three; where the answer alone is longer, its groups are
shifted against the addends', and where the addends' lengths differ, theirs against each other. Rows hold equally many
sums in every arm, and so fewer tokens where these are longer.
"""

from lmlab.data.sums import Sums
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.evaluation.sums import SumAccuracy
from lmlab.experiment import Arm, Column, Experiment, Paper, Run, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.digits import DigitGroups
from lmlab.training.optimizers import WSD, AdamW

PAPER = Paper(
    title="Tokenization counts: the impact of tokenization on arithmetic in frontier LLMs",
    year=2024,
    url="abstract only",
    claim="Grouping digits from the right, which commas enforce, leads to largely improved addition over groups from the "
    "left.",
)

GROUP = 2  # digits
# Layers, width, heads; sums, digits of an addend; steps, rows, single digits per row and what stands between them.
SIZES = {
    "smoke": ((2, 64, 4), (4000, (2, 3)), (60, 16, 64)),
    "small": ((3, 128, 4), (40_000, (2, 4)), (1200, 32, 128)),
}
# Tokens of a sum, its beginning and end among them, over those of single digits, as measured.
GROUPED, COMMAS = {"smoke": 0.738, "small": 0.684}, {"smoke": 0.9, "small": 0.861}


def adding(tokenizer, separator="", tokens=dict.fromkeys(SIZES, 1.0)):
    """scale -> Run. `tokens` of a sum, over those of single digits."""

    def run(scale):
        (layers, width, heads), (count, digits), (steps, rows, length) = SIZES[scale]
        return Run(
            model=LanguageModel(tokenizer.vocab_size, transformer(layers, width, n_heads=heads)),
            corpus=Sums(count, digits, separator, GROUP),
            tokenizer=tokenizer,
            optimizer=AdamW(2e-3, WSD(0.1, 0.3)),
            steps=steps,
            batch_size=rows,
            length=round(length * tokens[scale]),
            evaluators=(BitsPerByte("test"), SumAccuracy("test", group=GROUP)),
            evaluate_every=steps // 2,
            checkpoint_every=steps // 2,
        )

    return run


NOTE = dict.fromkeys(SIZES, "the same shape on other tokens: not matched in FLOPs per byte.")
LONGER = dict.fromkeys(SIZES, "a quarter more tokens per sum than without commas: not matched in FLOPs per byte.")
ARMS = (
    Arm("single", "Single digits", adding(ByteTokenizer()), NOTE, size="bytes"),
    Arm("left", "Groups from the left", adding(DigitGroups("left", GROUP, 1.55), "", GROUPED)),
    Arm("right", "Groups from the right", adding(DigitGroups("right", GROUP, 1.55), "", GROUPED)),
    Arm("commas", "From the left, with commas", adding(DigitGroups("left", GROUP, 1.4), ",", COMMAS), LONGER, size="commas"),
)

CLASSES = {"same": "Same length", "carry": "Longer answer", "unequal": "Unequal addends"}
TABLE = Table(
    name="addition",
    title="Additions by how their digits are grouped",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("right", "All", "% right", "higher", 1),
        *(Column(f"right/{name}", label, "% right", "higher", 1) for name, label in CLASSES.items()),
        Column("bits", "All", "bits per digit", "lower", 3),
        *(Column(f"bits/{name}", label, "bits per digit", "lower", 3) for name, label in CLASSES.items()),
        Column("first_wrong", "First error", "% into the answer", None, 1),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        Column("bytes_per_token", "Token", "bytes", None, 2),
    ),
    note="The paper's own tables were not read. Bits are those of the answer and its end, per digit of it, whatever the "
    "tokens. Commas are bytes, so that bits per byte of that arm do not compare.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small"), arms=ARMS, tables=(TABLE,), anchor="left")
