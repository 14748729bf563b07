"""Lexinvariant language models (Huang et al. 2023, arXiv 2305.16349).

The paper's claim: a model without any fixed token embeddings, to which each sequence shows its tokens as other random
Gaussian vectors, attains the perplexity of a standard model given a sufficiently long context; it deciphers substitution
ciphers in context, and is four times as accurate in synthetic in-context reasoning.

    lmlab table lexinvariant --scale smoke
    lmlab table lexinvariant --scale small [--corpus PATH]
    lmlab show lexinvariant --scale paper

All arms are one byte-level transformer, in which a row of training draws the vectors of none of the bytes, of a fifth, of
four fifths or of all. The tables show what is left of the difference as more is seen of a document, and what happens when
every excerpt is under a substitution cipher of its own: to the lexinvariant model, the same; and how often questions are
answered that only their own text answers. The paper's prompts for these were not read: here they are lines of a letter, a
colon and another letter, or of three letters, a colon and the same in another order. A probe of two layers, fitted to the
states of ciphered excerpts of the training text, reads off what was read: its majority in a window says what a symbol of it
stands for. A byte's vector is also what it is written by, behind one matrix that is learned. The shares are chosen here. At
paper scale: the paper's depth, width, length, batch and steps, and
an MLP of as many weights, but rotary positions and AdamW where the paper has T5's biases and Adafactor, and bytes where it
has the 128 characters of ASCII. A row says what counting the bytes of an excerpt so far is worth, with nothing learned:
what a lexinvariant model must do better than.
"""

import dataclasses

import numpy as np

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary, documents_of
from lmlab.evaluation.cipher import FROM, Cipher, by_place, excerpts
from lmlab.evaluation.cipher_key import CipherKey
from lmlab.evaluation.counter import counted_nats
from lmlab.evaluation.in_context import InContext
from lmlab.experiment import Arm, Column, Experiment, Paper, Study, Table
from lmlab.models.build import transformer
from lmlab.models.lexinvariant import Lexinvariant

PAPER = Paper(
    title="Lexinvariant Language Models",
    year=2023,
    url="arXiv 2305.16349",
    claim="A model that sees its tokens as other random vectors in each sequence attains a standard model's perplexity, given "
    "a sufficiently long context, and deciphers substitution ciphers.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(2_000_000), 100_000, 2048, 512, 0, 3e-3, 10_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 4_000_000, 8192, 512, 0, 3e-3, 100_000),
    "paper": Setup(StandardLibrary(), 250_000 * 64 * 512, 64 * 512, 512, 0, 3e-4, 1_000_000, "bfloat16"),
}
# Layers, width, MLP, heads: these are wide, as what tells random vectors apart is how many numbers a head compares.
SHAPES = {"smoke": (2, 64, 96, 2), "small": (2, 128, 256, 2), "paper": (12, 1024, 2736, 8)}

QUESTIONS = {"smoke": 50, "small": 500, "paper": 1000}  # of each kind
PROBE_STEPS = {"smoke": 200, "small": 2000, "paper": 10_000}


def sharing(share):
    """The model that draws the vectors of so many of its tokens."""

    def at(scale):
        layers, width, d_ff, heads = SHAPES[scale]
        model = Lexinvariant(256, transformer(layers, width, d_ff, heads), share=share)
        setup = SETUPS[scale]
        key = CipherKey("test", setup.robustness_bytes, 2 * setup.robustness_bytes, steps=PROBE_STEPS[scale])
        evaluators = Cipher("test", setup.robustness_bytes), key, InContext(QUESTIONS[scale])
        return setup.run(model, evaluators=evaluators)

    return at


@dataclasses.dataclass(frozen=True)
class Counting(Study):
    """`counted_nats` of the excerpts that the models are asked for."""

    length: int = 512  # of the models' rows
    max_bytes: int = 200_000

    def check(self):
        """UserError unless a document is for test."""
        self._excerpts()

    def measure(self):
        """As `Cipher`, a cipher being nothing to it."""
        texts = self._excerpts()
        bits = by_place([(counted_nats(text), np.arange(len(text))) for text in texts])
        both = {f"{name}_bpb{place}": value for place, value in bits.items() for name in ("plain", "cipher")}
        return both | {"cipher_cost": 0.0}

    def _excerpts(self):
        test = [data for split, data, _ in documents_of(self.corpus) if split == "test"]
        return excerpts(test, self.length - 1, self.max_bytes, 0)


def counting(scale):
    """No model."""
    setup = SETUPS[scale]
    return Counting(setup.corpus, length=setup.length, max_bytes=setup.robustness_bytes)


ARMS = (
    Arm("standard", "Standard", sharing(0.0)),
    Arm("fifth", "A fifth drawn", sharing(0.2)),
    Arm("four_fifths", "Four fifths drawn", sharing(0.8)),
    Arm("lexinvariant", "Lexinvariant", sharing(1.0)),
    Arm("counting", "Counting the excerpt's trigrams", counting),
)
NAMES = tuple(arm.name for arm in ARMS)

CONTEXT = Table(
    name="context",
    title="Bits per byte by the bytes of the excerpt before",
    arms=NAMES,
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte", None, 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        *(Column(f"plain_bpb/{n}", f"From {n}", "bits per byte", "lower", 3) for n in FROM),
    ),
    note="By bytes before, of excerpts that begin anywhere; without drawn vectors, but for the lexinvariant model. The "
    "paper (arXiv 2305.16349v1) reports perplexities of the Pile's ASCII characters behind 511 of them: lexinvariant 3.38, standard 2.00, which are "
    "1.76 and 1.00 bits.",
)
CIPHER = Table(
    name="cipher",
    title="Every excerpt under a substitution cipher of its own",
    arms=NAMES,
    measured=(
        Column("plain_bpb", "Plain", "bits per byte", "lower", 3),
        Column("cipher_bpb", "Cipher", "bits per byte", "lower", 3),
        Column("cipher_cost", "Cost", "bits per byte", "lower", 3),
        *(Column(f"cipher_bpb/{n}", f"From {n}", "bits per byte", "lower", 3) for n in FROM),
    ),
    note="The key permutes all values of a byte.",
)
KEY = Table(
    name="key",
    title="The key that a probe reads off the states",
    arms=NAMES[:-1],
    reported_columns=(Column("key", "Last window", "% of its symbols", "higher", 1),),
    reported={"lexinvariant": {"key": 99.6}},
    measured=(
        Column("key/first", "First window", "% of its symbols", "higher", 1),
        Column("key", "Last window", "% of its symbols", "higher", 1),
        Column("key/by_frequency", "Last, by counting bytes", "% of its symbols", "higher", 1),
        Column("key_bytes", "Bytes", "%", "higher", 1),
    ),
    source="arXiv 2305.16349v1, section 3: characters, 1,000 sequences of 512",
    note="Windows of 100 bytes, in which a symbol is right where most of its bytes are. By counting: the most frequent byte of "
    "the excerpt stands for the most frequent of the training text, and so on.",
)
IN_CONTEXT = Table(
    name="in_context",
    title="Questions that their own text answers",
    arms=NAMES[:-1],
    reported_columns=(
        Column("look_up", "LookUp", "% right", "higher", 2),
        Column("permuted", "Permutation", "% right", "higher", 2),
    ),
    reported={
        "standard": {"look_up": 48.50, "permuted": 27.66},
        "lexinvariant": {"look_up": 91.80, "permuted": 59.35},
    },
    measured=(
        Column("look_up", "Look-up", "% right", "higher", 1),
        Column("permuted", "Permutation", "% right", "higher", 1),
    ),
    source="arXiv 2305.16349v1, Table 1: characters of the Pile, 1,000 questions",
    note="Twelve pairs, or eight examples of one order of three letters, all three to be written.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(CONTEXT, CIPHER, KEY, IN_CONTEXT), anchor="standard"
)
