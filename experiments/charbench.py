"""CharBench: evaluating the role of tokenization in character-level tasks (2025; known here by its abstract), with the
tasks of CUTE and of the curse of tokenization (Tokenization Falling Short, 2024; abstract).

The papers' claims: questions about the characters of words are hard for models of subwords, 43.6% right on average and
32.3% on some tasks; for the places of characters, the longer the token that holds them, the worse. A byte is its own
character.

    lmlab table charbench --scale smoke
    lmlab table charbench --scale small

The papers ask finished models. Here small ones of one shape are trained from nothing on answered questions about words
of the standard library, and asked about words that were held out: as bytes, and as BPE tokens learned from the
library's prose, fewer and more. The right answer must be likelier than three wrong ones (one where the answer is yes or
no). Rows hold equally many bytes. `CharacterTasks` evaluates any other run as well: put it among its evaluators, with
`path` a folder of CUTE's files to ask those.
"""

from lmlab.data.character_tasks import TASKS, CharacterTaskText
from lmlab.data.foreign_tokenizer import TrainedOn
from lmlab.data.library_parts import LibraryPart
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.evaluation.character_tasks import CharacterTasks
from lmlab.experiment import Arm, Column, Experiment, Paper, Run, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.optimizers import WSD, AdamW

PAPER = Paper(
    title="CharBench: Evaluating the Role of Tokenization in Character-Level Tasks",
    year=2025,
    url="abstract only",
    claim="Questions about characters are hard for models of subwords; for places in words, the more so the longer the "
    "token.",
)

# Layers, width, heads; documents; steps, rows, bytes per row; questions per task; fewer
# and more ids, with the bytes of a token of the questions.
SIZES = {
    "smoke": ((1, 64, 4), 500, (60, 16, 256), 5, ((512, 1.7), (1024, 2.0))),
    "small": ((3, 128, 4), 20_000, (600, 16, 512), 150, ((1024, 2.0), (8192, 2.55))),
}


def asking(which=None):
    """scale -> Run on bytes, or on the fewer (0) or more (1) tokens."""

    def run(scale):
        (layers, width, heads), documents, (steps, rows, length), questions, sizes = SIZES[scale]
        tokenizer = ByteTokenizer()
        if which is not None:
            tokenizer = TrainedOn(BPE(*sizes[which]), LibraryPart(None))
        return Run(
            model=LanguageModel(tokenizer.vocab_size, transformer(layers, width, n_heads=heads)),
            corpus=CharacterTaskText(documents),
            tokenizer=tokenizer,
            optimizer=AdamW(2e-3, WSD(0.1, 0.3)),
            steps=steps,
            batch_size=rows,
            length=round(length / tokenizer.bytes_per_token),
            evaluators=(BitsPerByte("test"), CharacterTasks(questions=questions)),
            evaluate_every=steps // 2,
            checkpoint_every=steps // 2,
        )

    return run


ARMS = (
    Arm("bytes", "Bytes", asking()),
    Arm("bpe", "BPE", asking(0), size="subwords"),
    Arm("bpe_large", "BPE, more ids", asking(1), size="subwords"),
)

TABLE = Table(
    name="characters",
    title="Questions about characters of words that were held out",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        *(Column(f"characters/{task}", task.capitalize(), "% right", "higher", 1) for task in TASKS),
        Column("characters", "Mean", "% right", "higher", 1),
        Column("characters_unasked", "Another word asked", "% right", None, 1),
        Column("characters_chance", "By chance", "% right", None, 1),
        Column("token_length", "Longest token", "correlation with right places", None, 2),
        Column("mflops_per_byte", "MFLOPs", "per byte", None, 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    note="The papers' own tables were not read.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small"), arms=ARMS, tables=(TABLE,), anchor="bytes")
