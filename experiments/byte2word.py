"""Byte2Word: word-level representation from bytes (Lee et al. 2022, arXiv 2211.12677).

The paper's claim: word vectors built by attention over bytes, and subwords predicted from the words' states in
context, are on par with BERT at 10% of its embedding size, and competitive on noisy text and in transfer to other
languages.

    lmlab table byte2word --scale smoke
    lmlab table byte2word --scale small [--corpus PATH]
    lmlab show byte2word --scale paper

Both arms see both ways and cannot continue a text. 15% of the words are hidden as a whole, and each of their subwords
is to be named; a bit per byte is a bit per hidden byte. They differ in what is read: subwords, which begin with the
space before them, or words of bytes. What they name is the same, and a word has the same bytes. Both are told how many
tokens they have to name, and the second how many bytes. The paper gives no more than its abstract here: sizes at paper
scale are BERT's base, with a gated MLP of two thirds of the width; a word has at most 20 bytes, a learned query per
head, and one layer that expands its state to subwords.
"""

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.data.masked_words import MaskedSubwords, MaskedWords
from lmlab.evaluation.embedding_size import EmbeddingSize
from lmlab.evaluation.hidden_frequencies import frequencies
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, perturbed
from lmlab.models.byte2word import byte2word as byte2word_model
from lmlab.models.two_way import flat_encoder
from lmlab.text.bpe import BPE
from lmlab.text.words import SpaceWords, WordsOfSubwords

PAPER = Paper(
    title="Word-Level Representation From Bytes For Language Modeling",
    year=2022,
    url="arXiv 2211.12677",
    claim="Words' vectors by attention over their bytes, and subwords predicted from them, are on par with BERT at 10% "
    "of its embedding size.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 160_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 3e-3, 40_000),
    # BERT's million steps of 256 rows of 512 tokens.
    "paper": Setup(StandardLibrary(), 1_000_000 * 2**19, 2**19, 2048, 512, 1e-4, 1_000_000, "bfloat16"),
}
BYTES_PER_TOKEN = {"smoke": 2.05, "small": 2.55, "paper": 4.0}
BYTES_PER_WORD = {"smoke": 8.3, "small": 10.2, "paper": 5.0}
VOCABULARY = {"smoke": 512, "small": 1024, "paper": 30_522}
CAPACITY = {"smoke": 2.5, "small": (1.75, 3.0), "paper": 1.5}


def run(scale, model, tokenizer, corruption, multipliers=(1.0,)):
    """The setup's run, with the size of what reads."""
    return SETUPS[scale].run(model, multipliers, tokenizer, (EmbeddingSize(),), corruption=corruption)


def bert(scale):
    """Subwords read and named."""
    shape = {"smoke": (2, 128, 256, 4), "small": (2, 192, 512, 4), "paper": (12, 768, 2048, 12)}[scale]
    tokenizer = BPE(VOCABULARY[scale], BYTES_PER_TOKEN[scale])
    return run(scale, flat_encoder(tokenizer, *shape), tokenizer, MaskedWords())


def byte2word(scale):
    """Words of bytes read, subwords named."""
    limit, d_model, d_ff, n_heads, layers = {
        "smoke": (15, 96, 256, 4, 2), "small": (31, 128, 384, 4, 5), "paper": (20, 768, 2048, 12, 12)
    }[scale]
    subwords = BPE(VOCABULARY[scale], BYTES_PER_TOKEN[scale])
    tokenizer = WordsOfSubwords(SpaceWords(), limit, BYTES_PER_WORD[scale], subwords=subwords)
    model = byte2word_model(tokenizer, d_model, d_ff, n_heads, layers, capacity=CAPACITY[scale])
    return run(scale, model, tokenizer, MaskedSubwords(), (1.0, 1.0))


ARMS = (
    Arm("bert", "BERT (subwords)", bert),
    Arm(
        "byte2word",
        "Byte2Word",
        byte2word,
        notes={"paper": "a base-size encoder as the other; they are not matched in FLOPs per byte."},
    ),
    Arm("frequencies_subwords", "Frequencies, subwords counted", frequencies(bert)),
    Arm("frequencies_bytes", "Frequencies, bytes counted", frequencies(byte2word)),
)

NOISE = Table(
    name="noise",
    title="Hidden words, in clean and in perturbed text",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("bpb", "Test", "bits per hidden byte", "lower", 3),
        *perturbed("bits per hidden byte"),
    ),
    source="arXiv 2211.12677 reports accuracy on downstream tasks; its tables were not to be had",
    note="15% of the words are hidden. Each arm draws over its own rows, so that the hidden words are not the same. "
    "Frequencies: of the hidden subwords of as many rows of training, in runs of as many masks and at the same place.",
)

SIZE = Table(
    name="size",
    title="What is read, and its size",
    arms=("bert", "byte2word"),
    measured=(
        Column("embedding_parameters", "Embeddings", "parameters", "lower", 0),
        Column("parameters", "Model", "parameters", None, 0),
        Column("bpb", "Test", "bits per hidden byte", "lower", 3),
    ),
    source="arXiv 2211.12677 says 10% of BERT's embedding size",
    note="Embeddings: the rows of bytes or subwords, and what makes words of bytes. What names subwords is in neither.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(NOISE, SIZE), anchor="bert"
)
