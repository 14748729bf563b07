"""Training LLMs over neurally compressed text (Lester et al. 2024, arXiv 2404.03626).

The paper's claim: text that arithmetic coding by a neural model has compressed as a whole is not readily learnable, but where
it is cut into blocks that each compress to the same number of bits, it is: models of such text improve with scale and
outperform byte-level ones by a wide margin in perplexity and speed of inference, and are behind subwords at equal
parameters, with the benefit of shorter sequences.

    lmlab table equal_info_windows --scale smoke
    lmlab table equal_info_windows --scale small [--corpus PATH]
    lmlab show equal_info_windows --scale paper

Here a window is one token: of 10 bits at smoke, 11 at small and 16 at paper scale, where the vocabulary is the paper's
larger one of 65,536. Arms are matched in FLOPs per byte, subwords have as many ids, and "uniform" is what the tokens would
cost if nothing were learned of them. A window's few bytes are all that its coder sees, so that counts of n-grams stand for
the paper's small transformer (`EqualInfo.by` takes any model); one arm codes by single bytes' frequencies alone. A window
ends by a code of its own instead of padding: see `lmlab.text.equal_info`.

Text coded as a whole is no arm: bits per byte would need to know how many bytes each token ends, which no token of it
says. `lmlab.text.arithmetic` codes so. (The paper's models of such text stay at 1.46 bits, which it has by itself.) Windows of
several tokens are left out for the same reason. At paper scale layers and width are those of the paper's 2B for subwords;
what the others have more or less of is chosen to match FLOPs, as are steps and batch.
"""

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.evaluation.code_length import CodeLength
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, robustness
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.equal_info import EqualInfo

PAPER = Paper(
    title="Training LLMs over Neurally Compressed Text",
    year=2024,
    url="arXiv 2404.03626",
    claim="Text compressed in windows of equal information is learnable, ahead of bytes by a wide margin and behind subwords "
    "at equal parameters, with shorter sequences.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(2_000_000), 100_000, 2048, 256, 102, 3e-3, 10_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 178, 3e-3, 40_000),
    "paper": Setup(StandardLibrary(), 20_000_000_000, 2**20, 8192, 2048, 3e-4, 1_000_000, "bfloat16"),
}
WIDTH = {"smoke": (64, 2), "small": (96, 4), "paper": (2048, 16)}
SUBWORDS = {"smoke": BPE(1026, 2.5), "small": BPE(2050, 2.88), "paper": BPE(65_538, 4.0)}


def run(scale, tokenizer, layers, d_ff):
    """A transformer over the tokens of `tokenizer`."""
    width, heads = WIDTH[scale]
    model = LanguageModel(tokenizer.vocab_size, transformer(layers, width, d_ff, heads))
    return SETUPS[scale].run(model, tokenizer=tokenizer, evaluators=(CodeLength("test"),))


def byte_transformer(scale):
    """Bytes."""
    return run(scale, ByteTokenizer(), *{"smoke": (1, 80), "small": (1, 576), "paper": (6, 3184)}[scale])


def bpe_transformer(scale):
    """As many subwords as there are windows."""
    return run(scale, SUBWORDS[scale], *{"smoke": (1, 448), "small": (4, 288), "paper": (24, 5504)}[scale])


def equal_info(order, bytes_per_token, shapes):
    """Windows coded by n-grams up to `order`."""

    def at(scale):
        bits = {"smoke": 10, "small": 11, "paper": 16}[scale]
        return run(scale, EqualInfo(bits, order, bytes_per_token[scale]), *shapes[scale])

    return at


windows = equal_info(
    5, {"smoke": 2.4, "small": 2.8, "paper": 5.2}, {"smoke": (1, 400), "small": (4, 256), "paper": (28, 7392)}
)
unigram_windows = equal_info(
    1, {"smoke": 1.86, "small": 2.08, "paper": 3.0}, {"smoke": (1, 96), "small": (2, 288), "paper": (16, 5568)}
)
ARMS = (
    Arm("byte_transformer", "Bytes", byte_transformer),
    Arm("bpe_transformer", "BPE", bpe_transformer),
    Arm("equal_info", "Equal-info windows", windows),
    Arm("equal_info_unigram", "Equal-info windows, unigrams", unigram_windows),
)
NAMES = tuple(arm.name for arm in ARMS)

LEARNED = Table(
    name="learned",
    title="What is learned of each kind of token",
    arms=NAMES,
    reported_columns=(
        Column("bytes_per_token", "Token", "bytes", None, 2),
        Column("uniform_bpb", "Uniform", "bits per byte", None, 2),
        Column("small", "25M", "bits per byte", "lower", 2),
        Column("large", "2B", "bits per byte", "lower", 2),
    ),
    reported={
        "byte_transformer": {"bytes_per_token": 1.0, "uniform_bpb": 8.0, "small": 1.29, "large": 1.03},
        "bpe_transformer": {"bytes_per_token": 4.28, "uniform_bpb": 3.47, "small": 1.12, "large": 0.87},
        "equal_info": {"bytes_per_token": 5.31, "small": 1.25, "large": 0.94},
    },
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte", None, 3),
        Column("bytes_per_token", "Token", "bytes", None, 2),
        Column("uniform_bpb", "Uniform", "bits per byte", None, 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        Column("bytes_per_second", "Training", "bytes/s", "higher", 0),
    ),
    source="arXiv 2404.03626 (TMLR 12/2024), Tables 15 and 16: C4, at equal parameters; SentencePiece of 32k ids for BPE, windows "
    "of 16 bits as one token",
    note="Uniform: if every token were a guess among all ids.",
)
ROBUSTNESS = robustness(NAMES, "Windows are coded by a model of clean text.")

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(LEARNED, ROBUSTNESS),
    anchor="bpe_transformer",
)
