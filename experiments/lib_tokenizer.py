"""Rethinking tokenization: the Less-is-Better (LiB) model (Yang 2024, arXiv 2403.00417).

The paper's claim: a tokenizer that learns an integrated vocabulary of subwords, words and multi-word expressions by itself
reduces both the number of tokens and the number of types, as people do when they process language, and does better than
word and BPE tokenizers.

    lmlab table lib_tokenizer --scale smoke
    lmlab table lib_tokenizer --scale small [--corpus PATH]
    lmlab show lib_tokenizer --scale paper

Two models matched in FLOPs per byte read as many ids: byte-pair encoding, which stays within words, and LiB. Both are
trained on the same text, LiB on its beginning only. Beside the models' bits per byte stands what the tokens cost by their own frequencies, how
many of the ids a text uses, and how many of its tokens go over a space. How often units are tried, and when they are
forgotten, is chosen here; see `lmlab.text.lib`. So is all at paper scale.
"""

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.evaluation.vocabulary import Vocabulary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, robustness
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bpe import BPE
from lmlab.text.lib import LiB

PAPER = Paper(
    title="Rethinking Tokenization: Crafting Better Tokenizers for Large Language Models",
    year=2024,
    url="arXiv 2403.00417",
    claim="An integrated vocabulary of subwords, words and multi-word expressions, learned by itself, needs fewer tokens and "
    "types and does better than words and BPE.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(2_000_000), 100_000, 2048, 256, 125, 3e-3, 10_000),
    "small": Setup(StandardLibrary(6_000_000), 1_000_000, 4096, 512, 200, 3e-3, 40_000),
    "paper": Setup(StandardLibrary(), 10_000_000_000, 2**20, 8192, 2048, 3e-4, 1_000_000, "bfloat16"),
}
WIDTH = {"smoke": (64, 2), "small": (96, 4), "paper": (768, 12)}


def over(tokenizers, shapes):
    """A model over these tokens."""

    def at(scale):
        (layers, d_ff), (width, heads), tokenizer = shapes[scale], WIDTH[scale], tokenizers[scale]
        model = LanguageModel(tokenizer.vocab_size, transformer(layers, width, d_ff, heads))
        return SETUPS[scale].run(model, tokenizer=tokenizer, evaluators=(Vocabulary("test"),))

    return at


bpe = over(
    {"smoke": BPE(512, 2.05), "small": BPE(1024, 2.55), "paper": BPE(32_000, 4.0)},
    {"smoke": (1, 288), "small": (3, 272), "paper": (12, 2048)},
)
lib = over(
    {"smoke": LiB(512, 1.75, 16, 300_000), "small": LiB(1024, 2.25, 16, 1_000_000), "paper": LiB(32_000, 4.0, 24, 10**8)},
    {"smoke": (1, 176), "small": (3, 192), "paper": (12, 2048)},
)
ARMS = (Arm("bpe", "BPE", bpe), Arm("lib", "LiB", lib))
NAMES = tuple(arm.name for arm in ARMS)

TOKENS = Table(
    name="tokens",
    title="As many ids, two ways to choose them",
    arms=NAMES,
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte", None, 3),
        Column("bytes_per_token", "Token", "bytes", "higher", 2),
        Column("types", "Types", "% of ids in the text", None, 1),
        Column("phrases", "Phrases", "% of tokens", None, 1),
        Column("unigram_bpb", "Unigram", "bits per byte", "lower", 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    source="arXiv 2403.00417; its tables were not to be had",
    note="Unigram: by the frequencies of the test text itself. Phrases: tokens with a space inside.",
)
ROBUSTNESS = robustness(NAMES)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TOKENS, ROBUSTNESS), anchor="bpe"
)
