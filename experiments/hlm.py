"""HLM: from characters to words, a hierarchical pre-trained model (Sun et al. 2023, arXiv 2305.14571).

The paper's claim: a model without a vocabulary, whose shallow encoder makes a vector of each word's characters and
whose deep encoder sees the words' vectors, surpasses strong baselines of language understanding and is robust to
corrupted text and to a shift of domain.

    lmlab table hlm --scale smoke
    lmlab table hlm --scale small [--corpus PATH]
    lmlab show hlm --scale paper

All arms are encoders that see both ways, which cannot continue a text. 15% of the words are hidden as a whole, and
each of their tokens is to be named in its place; a bit per byte here is a bit per hidden byte, in a text of which all
else is seen. How many tokens a hidden word has stays visible: bytes say more by this than subwords do. What the arms
differ in is what is read: BPE tokens, bytes, or bytes with a symbol between words, to whose state that of the word
in context is added. The downstream tasks of the paper are not run. All are trained on prose, the documentation of Python's
standard library, or on PATH; its robustness is asked for by the perturbations of H-Net's table and by edits of 10 to 40% of
the characters, and its shift of domain by code, of which no arm has read any.

At paper scale HLM has the sizes of the authors' code (f1d43c27): 4 + 12 + 1 layers of width 768, MLPs of 1536 within
words and 3072 between them, at most 20 bytes in a word, where theirs has 20 characters. A gated MLP of two thirds of
the width stands for theirs; positions are rotary, where theirs are DeBERTa's. They mask by random characters; here a
mask id stands in. The batch is not known.
"""

from lmlab.comparison import Setup
from lmlab.data.library_parts import LibraryPart
from lmlab.data.masked_words import MaskedWords
from lmlab.evaluation.hidden_frequencies import frequencies
from lmlab.evaluation.shifts import CharacterEdits, OtherCorpus
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, perturbed
from lmlab.models.language_model import LanguageModel
from lmlab.models.two_way import flat_encoder
from lmlab.models.words import masked_word_model
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.words import SpaceWords, Words

PAPER = Paper(
    title="From Characters to Words: Hierarchical Pre-trained Language Model for Open-vocabulary Language "
    "Understanding",
    year=2023,
    url="arXiv 2305.14571",
    claim="Words' vectors made from their characters by a shallow encoder, put in context by a deep one, surpass strong "
    "baselines and are robust to corrupted text and shifted domains.",
)

SETUPS = {
    "smoke": Setup(LibraryPart(6_000_000, 0.05, 0.1), 160_000, 4096, 256, 120, 3e-3, 10_000),
    "small": Setup(LibraryPart(None, 0.01, 0.1), 2_500_000, 4096, 512, 190, 3e-3, 40_000),
    # 4M steps of rows of 2,048 characters; 256 rows are chosen here.
    "paper": Setup(LibraryPart(), 4_000_000 * 2**19, 2**19, 2048, 512, 5e-5, 1_000_000, "bfloat16"),
}
CODE = {
    "smoke": LibraryPart(6_000_000, part="code"),
    "small": LibraryPart(None, part="code"),
    "paper": LibraryPart(None, part="code"),
}
BYTES_PER_TOKEN = {"smoke": 2.12, "small": 2.69, "paper": 4.0}
BYTES_PER_WORD = {"smoke": 7.0, "small": 8.0, "paper": 5.0}
CAPACITY = {"smoke": 2.5, "small": (1.75, 3.0), "paper": 1.5}


def run(scale, model, tokenizer, multipliers=(1.0,)):
    """The setup's run on masked words, read in edited text and in code too."""
    setup = SETUPS[scale]
    shifts = (CharacterEdits("test", setup.robustness_bytes), OtherCorpus("code", CODE[scale], setup.robustness_bytes))
    return setup.run(model, multipliers, tokenizer, shifts, corruption=MaskedWords())


def bpe_encoder(scale):
    """BPE tokens."""
    vocab, shape = {
        "smoke": (512, (2, 128, 272, 4)), "small": (1024, (2, 192, 608, 4)), "paper": (30_522, (12, 768, 2048, 12))
    }[scale]
    tokenizer = BPE(vocab, BYTES_PER_TOKEN[scale])
    return run(scale, flat_encoder(tokenizer, *shape), tokenizer)


def byte_encoder(scale):
    """Bytes."""
    shape = {"smoke": (2, 64, 320, 4), "small": (2, 112, 256, 4), "paper": (12, 768, 2048, 12)}[scale]
    return run(scale, flat_encoder(ByteTokenizer(), *shape), ByteTokenizer())


def hlm(scale):
    """Words made of their bytes."""
    limit, width, n_heads, intra, inter, last = {
        "smoke": (15, 96, 4, (1, 128), (2, 192), 1),
        "small": (31, 128, 4, (2, 128), (4, 352), 1),
        "paper": (20, 768, 12, (4, 1024), (12, 2048), 1),
    }[scale]
    tokenizer = Words(SpaceWords(), limit, BYTES_PER_WORD[scale])
    backbone = masked_word_model(tokenizer, width, n_heads, intra, inter, last, CAPACITY[scale])
    return run(scale, LanguageModel(tokenizer.vocab_size + 1, backbone), tokenizer, (1.0, 1.0))


NOTE = "the sizes of the authors' code; a base-size encoder of each kind, which are not matched in FLOPs per byte."
ARMS = (
    Arm("bpe_encoder", "Encoder (BPE)", bpe_encoder),
    Arm("byte_encoder", "Encoder (bytes)", byte_encoder, notes={"paper": NOTE}),
    Arm("hlm", "HLM", hlm, notes={"paper": NOTE}),
    Arm("frequencies_bpe", "Frequencies (BPE)", frequencies(bpe_encoder)),
    Arm("frequencies_bytes", "Frequencies (bytes)", frequencies(byte_encoder)),
)
MODELS = tuple(arm.name for arm in ARMS[:3])

ROBUSTNESS = Table(
    name="robustness",
    title="Hidden words, in clean and in perturbed text",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("bpb", "Test", "bits per hidden byte", "lower", 3),
        *perturbed("bits per hidden byte"),
    ),
    source="arXiv 2305.14571 reports accuracy on downstream tasks; its tables were not to be had",
    note="15% of the words are hidden. Each arm draws over its own rows, so that the hidden words are not the same. "
    "Frequencies: of the hidden tokens of as many rows of training, in runs of as many masks and at the same place.",
)

SHIFTS = Table(
    name="shifts",
    title="Hidden words, in edited text and in code",
    arms=MODELS,
    measured=(
        *(Column(f"edits_{rate}", f"{rate}% edited", "bits per hidden byte", "lower", 3) for rate in (0, 10, 20, 30, 40)),
        Column("code", "Code", "bits per hidden byte", "lower", 3),
    ),
    source="arXiv 2305.14571 reports accuracy under character noise and on biomedical text; its tables were not to be had",
    note="Edited: each character with that probability, hidden ones too. Code: the first 476 bytes of "
    "each file of the test split (at small), less what is in triple quotes.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(ROBUSTNESS, SHIFTS), anchor="bpe_encoder"
)
