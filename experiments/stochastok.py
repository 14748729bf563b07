"""StochasTok: improving fine-grained subword understanding in LLMs (Sims et al. 2025, arXiv 2506.01687).

The paper's claim: where tokens are split at random into shorter ones in training, a model sees what they are made of, and
is substantially better at games of characters, substrings and numbers later; models of characters and dropout in the
tokenizer cost much more and help inconsistently.

    lmlab table stochastok --scale smoke
    lmlab table stochastok --scale small [--corpus PATH]
    lmlab show stochastok --scale paper

All arms are one model over one vocabulary, and read the same bytes in the same order; only how training text is cut into
tokens differs: as the tokenizer does, with one token in ten split, or by byte-pair encoding without one possible merge
in ten. Both write more tokens, so that their training costs more per byte; using the model costs the same, which is what
is matched. What is asked here is what it does to the language model: bits per byte of the tokenizer's own tokens, of
perturbed text, and of the same text in other tokens. The games are in `stochastok_games`.

The released code splits nothing on every run after its first, as it keeps its table of splits with ids that have become
strings; see `lmlab.text.segmentations.Splits`. Its chance has no seed; here a batch is a function of seed and step. The
share of a tenth, and BPE-dropout's, are the paper's. At paper scale the model and the batches are those of its 50M
parameters: 8 layers of width 512, rows of 512 tokens; its schedule and attention in groups are not taken over.
"""

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.data.corruptions import NextTokens
from lmlab.data.segmentations import BPEDropout, StochasTok
from lmlab.evaluation.segmentations import Segmentations
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, robustness
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bpe import BPE

PAPER = Paper(
    title="StochasTok: Improving Fine-Grained Subword Understanding in LLMs",
    year=2025,
    url="arXiv 2506.01687",
    claim="Splitting tokens at random in training shows a model what they are made of and substantially improves games of "
    "characters, substrings and numbers.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(2_000_000), 100_000, 2048, 256, 128, 3e-3, 10_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 3e-3, 40_000),
    # 30,000 steps of 480 rows of 512 tokens.
    "paper": Setup(StandardLibrary(), 30_000 * 480 * 2048, 480 * 2048, 2048, 512, 6e-4, 1_000_000, "bfloat16"),
}
TOKENIZERS = {"smoke": BPE(512, 2.05), "small": BPE(1024, 2.55), "paper": BPE(50_257, 4.0)}
SHAPES = {"smoke": (1, 64, 288, 2), "small": (3, 96, 272, 4), "paper": (8, 512, 1320, 16)}


def cut(corruption):
    """The model trained on text that `corruption` cuts."""

    def at(scale):
        layers, width, d_ff, heads = SHAPES[scale]
        setup, tokenizer = SETUPS[scale], TOKENIZERS[scale]
        model = LanguageModel(tokenizer.vocab_size, transformer(layers, width, d_ff, heads), tied=True)
        changes = {}
        if corruption != NextTokens():
            changes = {"corruption": corruption, "length": corruption.positions(setup.tokens)}
        evaluators = (Segmentations(max_bytes=setup.robustness_bytes),)
        return setup.run(model, tokenizer=tokenizer, evaluators=evaluators, **changes)

    return at


ARMS = (
    Arm("deterministic", "The tokenizer's own", cut(NextTokens())),
    Arm("bpe_dropout", "BPE-dropout", cut(BPEDropout())),
    Arm("stochastok", "StochasTok", cut(StochasTok())),
)
NAMES = tuple(arm.name for arm in ARMS)

SEGMENTATIONS = Table(
    name="segmentations",
    title="The same text in other tokens",
    arms=NAMES,
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte", None, 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        Column("own_bpb", "Own", "bits per byte", "lower", 3),
        Column("split_bpb", "Split", "bits per byte", "lower", 3),
        Column("dropout_bpb", "Dropout", "bits per byte", "lower", 3),
        Column("split_cost", "Split - own", "bits per byte", "lower", 3),
        Column("dropout_cost", "Dropout - own", "bits per byte", "lower", 3),
    ),
    source="arXiv 2506.01687 shows the accuracy of language games and additions in plots and prints no numbers",
    note="Own, split and dropout are of the same excerpts. A segmentation's bits are an upper bound of those of its bytes, a "
    "wider one where a model has learned that there are others.",
)
ROBUSTNESS = robustness(NAMES, "In the tokenizer's own tokens.")

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(SEGMENTATIONS, ROBUSTNESS),
    anchor="deterministic",
)
