"""FIM-SE: empowering character-level text infilling by eliminating sub-tokens (Ren et al. 2024, arXiv 2405.17103).

The paper's claim: where a gap is cut between characters, models of tokens meet parts of tokens at its edges, which cost them
much; if whole lines are written instead, with what is known of the first and the last shown between two marks of their own,
no part of a token is ever predicted, and gaps are filled better.

    lmlab table fim_se --scale smoke
    lmlab table fim_se --scale small [--corpus PATH]
    lmlab show fim_se --scale paper

Half of the rows in training have a gap at random places. Three arms are one model over one vocabulary: gaps between tokens,
gaps between characters, and whole lines (FIM-SE); one reads bytes, for which there are no parts of tokens, at equal FLOPs
per byte. All are asked to fill the same short gaps, which are cut between characters. The whole row is predicted in
training, as in an ordinary language model. The paper continues to train a 13B model of code; here all is from scratch.
"""

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.data.infilling import FillIn
from lmlab.evaluation.infilling import Infilling
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, robustness
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.infill import MARKS, AtCharacters, AtLines, AtTokens

PAPER = Paper(
    title="Empowering Character-level Text Infilling by Eliminating Sub-Tokens",
    year=2024,
    url="arXiv 2405.17103",
    claim="Whole lines written in place of gaps, what is known of them shown between marks, spare a model parts of tokens, and "
    "gaps are filled better.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(2_000_000), 100_000, 2048, 256, 128, 3e-3, 10_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 2_000_000, 4096, 512, 200, 3e-3, 40_000),
    "paper": Setup(StandardLibrary(), 20_000_000_000, 2**20, 8192, 2048, 3e-4, 1_000_000, "bfloat16"),
}
TOKENIZERS = {"smoke": BPE(512, 2.05), "small": BPE(1024, 2.55), "paper": BPE(32_000, 3.5)}
GAPS = {"smoke": 16, "small": 256, "paper": 1000}
ROOM = 1.3


def run(scale, kind, tokenizer, layers, width, d_ff, heads):
    """A transformer that fills gaps shown as `kind` says."""
    setup = SETUPS[scale]
    model = LanguageModel(tokenizer.vocab_size + len(MARKS), transformer(layers, width, d_ff, heads))
    tokens = setup.length if isinstance(tokenizer, ByteTokenizer) else setup.tokens
    new = round(400 / tokenizer.bytes_per_token)  # FIM-SE writes whole lines again; no excerpt has more bytes
    return setup.run(
        model,
        tokenizer=tokenizer,
        evaluators=(Infilling("test", GAPS[scale], new=new),),
        corruption=FillIn(kind, room=ROOM),
        length=round(tokens * ROOM),
    )


def subwords(kind):
    """Over BPE tokens."""

    def at(scale):
        shape = {"smoke": (1, 64, 528, 2), "small": (3, 96, 400, 4), "paper": (24, 2048, 5504, 16)}[scale]
        return run(scale, kind, TOKENIZERS[scale], *shape)

    return at


def over_bytes(scale):
    """Over bytes."""
    shape = {"smoke": (1, 64, 40, 2), "small": (1, 96, 336, 4), "paper": (6, 2048, 2560, 16)}[scale]
    return run(scale, AtCharacters(), ByteTokenizer(), *shape)


ARMS = (
    Arm("tokens", "Gaps between tokens", subwords(AtTokens())),
    Arm("characters", "Gaps between characters", subwords(AtCharacters())),
    Arm("fim_se", "FIM-SE", subwords(AtLines())),
    Arm("bytes", "Bytes", over_bytes),
)
NAMES = tuple(arm.name for arm in ARMS)

GAP_TABLE = Table(
    name="gaps",
    title="Gaps of at most 20 characters, cut between characters",
    arms=NAMES,
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte", None, 3),
        Column("bpb", "Text", "bits per byte", "lower", 3),
        Column("middle_bpb", "Gaps", "bits per byte of the gap", "lower", 3),
        Column("filled", "Filled", "% exactly", "higher", 1),
        Column("unfit", "Unfit", "%", "lower", 1),
    ),
    source="arXiv 2405.17103 reports code that passes tests; its tables were not to be had",
    note="A gap's bits are all that is written for it, the end included. Unfit: lines that do not begin and end as shown.",
)
ROBUSTNESS = robustness(NAMES, "Without gaps.")

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(GAP_TABLE, ROBUSTNESS), anchor="fim_se"
)
