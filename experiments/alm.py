"""Cross-tokenizer distillation via approximate likelihood matching (Minixhofer, Vulić, Ponti 2025, arXiv 2503.20083).

The paper's claim: a student of another tokenizer learns from a teacher alone, by matching the teacher's probability of
every stretch of text at whose ends both tokenizers cut; a subword model becomes a byte model so better than prior
methods make of it a model of similar subwords.

    lmlab table alm --scale smoke
    lmlab table alm --scale small
    lmlab show alm --scale paper      a model of Llama 3.2's 3B shape

A teacher over BPE tokens is trained first. Its students have its weights, but rows for bytes, or for another BPE's
tokens, made without training (FVT). They are then left as they are, trained on the same text by next-token prediction,
or by ALM; all for as many steps of as many bytes. A hierarchy over bytes that begins anew is trained both ways, too.

ALM is the authors' binary cross-entropy at temperature 100, of chunks that the beginning of a word follows, joined
where the teacher gives that less than 0.1 (`merge_by_space_prob+append_space`). What the authors add is left out: the
alignment of hidden states and the weighting by gradients' magnitudes. 5,000 steps of 64 rows are their example's.

A table trains the teacher once, `lmlab train` of a student trains it beside. `--set objective.weights=DIR` takes that of
a finished run; or released weights, as the authors do, that `lmlab convert llama .. --tokenizer FILE` has read, where
TEACHERS names a `TokenizerFile` of the same FILE. `lmlab transfer DIR OUT --tokenizer FILE --distill` does the same for
any model and any file.
"""

import dataclasses

from lmlab.comparison import Setup, quarters
from lmlab.data.corpora import StandardLibrary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import hierarchy, transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.llama import LlamaStack
from lmlab.objectives.alm import ALM
from lmlab.objectives.transferred import Transferred
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.pairs import Beside
from lmlab.training.optimizers import hnet_multipliers

PAPER = Paper(
    title="Cross-Tokenizer Distillation via Approximate Likelihood Matching",
    year=2025,
    url="arXiv 2503.20083",
    claim="A student learns from a teacher of another tokenizer by matching the probabilities of stretches of text, without "
    "next-token prediction, and so a subword model can become a byte model.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 320_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 2_000_000, 4096, 512, 200, 3e-3, 40_000),
    "paper": Setup(StandardLibrary(), 5_000 * 2**17, 2**17, 2048, 512, 1e-5, 1_000_000, "bfloat16"),
}
STEPS = {"smoke": 40, "small": 160, "paper": 5_000}  # of a student
TEACHERS = {"smoke": BPE(512, 2.05), "small": BPE(1024, 2.55), "paper": BPE(128_256, 4.4)}
OTHERS = {"smoke": BPE(400, 1.8), "small": BPE(640, 2.2), "paper": BPE(151_936, 4.4)}


def backbone(scale):
    """What teacher and students have in common."""
    if scale == "paper":
        return LlamaStack(28, 3072, 8192, 24, 8, 128, rotary_base=5e5, stretch=(32.0, 1.0, 4.0, 8192.0))
    layers, width, heads = {"smoke": (2, 64, 2), "small": (4, 128, 4)}[scale]
    return transformer(layers, width, n_heads=heads)


def token_model(scale, tokenizer):
    """The backbone between rows for a tokenizer's ids."""
    return LanguageModel(tokenizer.vocab_size, backbone(scale), tied=scale == "paper")


def teacher(scale):
    """Over BPE tokens, by next-token prediction."""
    tokenizer = TEACHERS[scale]
    return SETUPS[scale].run(token_model(scale, tokenizer), tokenizer=tokenizer)


def beside(scale, tokenizer):
    """A student's tokenizer, with room for a quarter more of the teacher's positions than a row takes on average."""
    positions = 1.25 * tokenizer.bytes_per_token / TEACHERS[scale].bytes_per_token
    return Beside(tokenizer, TEACHERS[scale], round(positions, 2))


def student(scale, tokenizer, objective, model=None, multipliers=(1.0,)):
    """With the teacher's backbone, unless there is a model."""
    model = model or token_model(scale, tokenizer)
    objective = dataclasses.replace(objective, teacher=teacher(scale))
    steps = STEPS[scale]
    run = SETUPS[scale].run(model, multipliers, beside(scale, tokenizer), objective=objective)
    return dataclasses.replace(run, **quarters(steps))


def untrained(scale, tokenizer):
    """As FVT leaves it."""
    objective = Transferred(teacher=teacher(scale))
    return SETUPS[scale].untrained(token_model(scale, tokenizer), beside(scale, tokenizer), objective=objective)


def hnet(scale, objective):
    """Bytes in chunks, from random weights."""
    layout, widths, d_ff, heads, d_state, capacity = {
        "smoke": (["m1", ["T1"], "m1"], (32, 64), (0, 128), 2, 16, 2.5),
        "small": (["m2", ["T3"], "m2"], (96, 160), (0, 448), 4, 32, ((1.75, 3.0), None)),
        "paper": (["m4", ["T22"], "m4"], (1024, 1536), (0, 4096), 16, 128, 1.5),
    }[scale]
    body = hierarchy(layout, widths, d_ff, n_heads=heads, d_state=d_state, target=4.0, capacity=capacity)
    multipliers = hnet_multipliers((4.0,), widths)
    return student(scale, ByteTokenizer(), objective, LanguageModel(256, body), multipliers)


SUBWORD, HIERARCHY = dict(size="subwords"), dict(size="hierarchy")
ARMS = (
    Arm("teacher", "Teacher (BPE)", teacher, **SUBWORD),
    Arm("bytes_untrained", "Bytes, untrained", lambda scale: untrained(scale, ByteTokenizer())),
    Arm("bytes_next_token", "Bytes, next token", lambda scale: student(scale, ByteTokenizer(), Transferred())),
    Arm("bytes_alm", "Bytes, ALM", lambda scale: student(scale, ByteTokenizer(), ALM())),
    Arm("bpe_untrained", "Other BPE, untrained", lambda scale: untrained(scale, OTHERS[scale]), **SUBWORD),
    Arm("bpe_next_token", "Other BPE, next token", lambda scale: student(scale, OTHERS[scale], Transferred()), **SUBWORD),
    Arm("bpe_alm", "Other BPE, ALM", lambda scale: student(scale, OTHERS[scale], ALM()), **SUBWORD),
    Arm("hnet_next_token", "H-Net from nothing, next token", lambda scale: hnet(scale, Transferred(method="")), **HIERARCHY),
    Arm("hnet_alm", "H-Net from nothing, ALM", lambda scale: hnet(scale, ALM(method="")), **HIERARCHY),
)

TABLE = Table(
    name="transfer",
    title="Bits per byte behind as many steps",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured", None, 3),
        Column("bytes_per_token", "Token", "bytes", None, 2),
        Column("validation_bpb", "Validation", "bits per byte", "lower", 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    source="arXiv 2503.20083 reports accuracy on benchmarks; its tables were not to be had",
    note="Every student sees the same bytes in the same order as the others of its tokenizer. The teacher's row is its own "
    "training, which is longer than a student's.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE,), anchor="bytes_alm"
)
