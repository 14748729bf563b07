"""Fishing for Magikarp: automatically detecting under-trained tokens (Land and Bartolo 2024, arXiv 2405.05417).

The paper's claim: the weights of embedding and unembedding predict which tokens a model cannot use, because its
training text hardly held them; 0.1 to 1% of most vocabularies.

    lmlab table magikarp --scale smoke
    lmlab table magikarp --scale small

The paper finds such tokens in released models: of the 2% that its indicators flag, 49 of 999 were verified in GPT-2
Medium, 20 of 639 in Llama 2 7B, 178 of 993 in OLMo 1.7 7B, 3,161 of 5,117 in Gemma 2B. There, nobody knows the truth.
Here it is known: the tokenizer is trained on code and documentation, the model on documentation alone, so that a share
of the tokens never occurs. The indicators are compared with that; a token is verified where no prompt that repeats it
makes it likely. A model as small and as short-trained as these repeats few tokens of any kind: see the column of the
others.
"""

from lmlab.data.corpora import StandardLibrary
from lmlab.data.foreign_tokenizer import TrainedOn
from lmlab.data.library_parts import LibraryPart
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.evaluation.magikarp import INDICATORS, UnderTrained
from lmlab.experiment import Arm, Column, Experiment, Paper, Run, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bpe import BPE
from lmlab.training.optimizers import WSD, AdamW

PAPER = Paper(
    title="Fishing for Magikarp: Automatically Detecting Under-trained Tokens in Large Language Models",
    year=2024,
    url="arXiv 2405.05417",
    claim="Simple indicators in the embedding weights find the tokens that a model was hardly trained on.",
)

# Vocabulary; layers, width, heads; bytes of the library; steps, rows, tokens per row; share flagged.
SIZES = {
    "smoke": (1024, (1, 64, 4), 4_000_000, (100, 16, 64), 0.1),
    "small": (4096, (3, 128, 4), None, (1200, 16, 128), 0.02),
}


def model(tied=False, foreign=True):
    """scale -> Run. `foreign`: the tokenizer is also of the code."""

    def run(scale):
        vocab, (layers, width, heads), size, (steps, rows, length), share = SIZES[scale]
        recipe, prose = BPE(vocab, 3.0), LibraryPart(size)
        return Run(
            model=LanguageModel(vocab, transformer(layers, width, n_heads=heads), tied=tied),
            corpus=prose,
            tokenizer=TrainedOn(recipe, StandardLibrary(size)) if foreign else recipe,
            optimizer=AdamW(3e-3, WSD(0.1, 0.2)),
            steps=steps,
            batch_size=rows,
            length=length,
            evaluators=(BitsPerByte("test"), UnderTrained(share=share)),
            evaluate_every=steps // 2,
            checkpoint_every=steps // 2,
        )

    return run


ARMS = (
    Arm("untied", "Untied", model()),
    Arm("tied", "Tied", model(tied=True)),
    Arm("own", "Untied, tokenizer of its own text", model(foreign=False)),
)
LABELS = dict(zip(INDICATORS, ("Input norm", "Output norm", "Cosine", "Cosine, centred", "Cosine, no first component")))

TABLE = Table(
    name="indicators",
    title="Do the weights tell which tokens never occurred?",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("candidates", "Tokens", "that could be", None, 0),
        Column("untrained", "Never seen", "tokens", None, 0),
        *(Column(f"auc/{name}", label, "area under ROC", "higher", 3) for name, label in LABELS.items()),
        Column("precision", "Flagged", "% never seen", "higher", 1),
        Column("chance", "All", "% never seen", None, 1),
        Column("recall", "As many", "% never seen", "higher", 1),
        Column("verified", "Flagged", "% not repeated", None, 1),
        Column("verified_others", "Others", "% not repeated", None, 1),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    note="The paper's own table has released models in its rows (see the module). An area of 0.5 is chance. A tied model "
    "has no input rows of its own.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small"), arms=ARMS, tables=(TABLE,), anchor="untied")
