"""T-FREE: tokenizer-free generative LLMs via sparse representations (Deiseroth et al. 2024, arXiv 2406.19223).

The paper's claim: words embedded directly, through sparse patterns of character triplets, need no corpus to be made from,
use what words have in common, and give competitive models whose embedding and head have over 85% fewer parameters.

    lmlab table t_free --scale smoke
    lmlab table t_free --scale small [--corpus PATH]
    lmlab show t_free --scale paper

A word of n letters turns on the rows that its n trigrams are hashed to; its vector is their sum, and what is predicted is
which rows the next word turns on, each for itself. Against it stand a model that reads and writes the same words by a
table with a row for each and a softmax, and one of BPE tokens; all matched in FLOPs per byte of training. To name words by
a dictionary, as "words" and "larger" do, T-FREE spends a product of all rows with every entry more, which is not counted.

Bits per byte are not a given here: independent rows give no probability of a word. What is scored:

- patterns: the rows of the whole text as a code, with no dictionary. It spends much on patterns that no word has.
- words: the same probabilities, given that the pattern is that of an id of the dictionary in which text is stored: words,
  and bytes for those that are not in it. That is a code of the bytes, as that of the other arms is, and of the same ids as
  the table's. As rows are not independent, their logits are divided by a temperature, chosen on the validation split.
- larger: with a dictionary four times as large, counted in the same training text, put in place after training.

The paper chooses a word by its rows' sigmoids over their number; that orders words and is no probability of them. A space
belongs to the word behind it and changes its first trigram, where the paper has marks for where a space is and is not; and
trigrams are of characters, where its are of bytes. Sixteen characters at most are a word; a number is its digits. At paper
scale the transformer over BPE is the paper's of 1B (16 layers of width 2,048, 64k ids) with its batches, and T-FREE has the
table that did best there: 8,192 rows, ten hashes a trigram, of which three in lower case are chosen here. What it saves in
embedding and head goes into wider MLPs, where the paper leaves them alike.
"""

import dataclasses

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.data.trigrams import NextPatterns
from lmlab.evaluation.bits_per_byte import BitsPerByte, Robustness
from lmlab.evaluation.dictionary import WithDictionary
from lmlab.evaluation.next_word import NextWord
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, robustness
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.t_free import TFree
from lmlab.objectives.multi_label import NextPattern
from lmlab.text.bpe import BPE
from lmlab.text.whole_words import WordDictionary
from lmlab.text.trigrams import Trigrams

PAPER = Paper(
    title="T-FREE: Tokenizer-Free Generative LLMs via Sparse Representations for Memory-Efficient Embeddings",
    year=2024,
    url="arXiv 2406.19223",
    claim="Words embedded through sparse activation patterns over character triplets are competitive with over 85% fewer "
    "parameters of embedding and head.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(2_000_000), 100_000, 2048, 256, 128, 3e-3, 10_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 3e-3, 40_000),
    # 50,000 steps of 1,024 rows of 2,048 tokens.
    "paper": Setup(StandardLibrary(), 50_000 * 2**23, 2**23, 8192, 2048, 6e-4, 1_000_000, "bfloat16"),
}
SUBWORDS = {"smoke": BPE(512, 2.05), "small": BPE(1024, 2.55), "paper": BPE(65_536, 4.0)}
WORDS = {
    "smoke": WordDictionary(1024, 1.84, 8),
    "small": WordDictionary(2048, 2.1, 12),
    "paper": WordDictionary(65_536, 4.2, 16),
}
TRIGRAMS = {"smoke": Trigrams(256, 4, 2, 8), "small": Trigrams(512, 6, 3, 12), "paper": Trigrams(8192, 10, 3, 16)}
WIDTH = {"smoke": (64, 2), "small": (96, 4), "paper": (2048, 16)}


def stack(scale, layers, d_ff):
    """A transformer of the scale's width."""
    width, heads = WIDTH[scale]
    return transformer(layers, width, d_ff, heads)


def run(scale, model, tokenizer, **changes):
    """The setup's run; whole words are looked at beside bits per byte."""
    return SETUPS[scale].run(model, (1.0,), tokenizer, (next_word(scale),), **changes)


def next_word(scale):
    """Whole next words of excerpts."""
    return NextWord(max_bytes=SETUPS[scale].robustness_bytes)


def bpe_transformer(scale):
    """BPE tokens."""
    tokenizer = SUBWORDS[scale]
    body = stack(scale, *{"smoke": (1, 448), "small": (4, 288), "paper": (16, 5456)}[scale])
    return run(scale, LanguageModel(tokenizer.vocab_size, body), tokenizer)


def word_table(scale):
    """Words of a dictionary, each with a row of its own."""
    tokenizer = WORDS[scale]
    body = stack(scale, *{"smoke": (1, 16), "small": (2, 208), "paper": (16, 6064)}[scale])
    return run(scale, LanguageModel(tokenizer.vocab_size, body), tokenizer)


def t_free(scale):
    """Words as patterns of trigrams."""
    tokenizer, trigrams = WORDS[scale], TRIGRAMS[scale]
    body = stack(scale, *{"smoke": (1, 512), "small": (3, 384), "paper": (16, 8464)}[scale])
    model = TFree(tokenizer.vocab_size, body, rows=trigrams.rows)
    made = run(scale, model, tokenizer, corruption=NextPatterns(trigrams), objective=NextPattern())
    few = SETUPS[scale].robustness_bytes
    words = WithDictionary(trigrams, (BitsPerByte("test"), Robustness("test", few), next_word(scale)), max_bytes=few)
    return dataclasses.replace(made, evaluators=(words,))


ARMS = (
    Arm("bpe_transformer", "Transformer (BPE)", bpe_transformer),
    Arm("word_table", "Words, a row each", word_table),
    Arm("t_free", "T-FREE", t_free),
)
NAMES = tuple(arm.name for arm in ARMS)

WORD_TABLE = Table(
    name="words",
    title="Bits per byte and whole next words at matched FLOPs per byte",
    arms=NAMES,
    reported_columns=(
        Column("fertility", "English", "tokens per word", "lower", 3),
        Column("german", "German", "tokens per word", "lower", 3),
    ),
    reported={
        "bpe_transformer": {"fertility": 1.275, "german": 2.025},
        "t_free": {"fertility": 1.163, "german": 1.182},
    },
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte", None, 3),
        Column("parameters", "Parameters", "", None, 0),
        Column("bytes_per_token", "Token", "bytes", None, 2),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        Column("next_word", "Words", "% known", "higher", 1),
        Column("next_word/unseen", "Unseen", "% known", "higher", 1),
        Column("next_word/rare", "Rare", "% known", "higher", 1),
        Column("next_word/common", "Common", "% known", "higher", 1),
    ),
    source="arXiv 2406.19223v2: fertility of BPE with 64k ids and of T-FREE",
    note="T-FREE's bits are those over its dictionary's ids, at a temperature chosen on the validation split.",
)
READINGS = Table(
    name="readings",
    title="T-FREE's patterns read in three ways",
    arms=("t_free",),
    measured=(
        Column("pattern_bpb", "Patterns", "bits per byte", "lower", 3),
        Column("raw_bpb", "Words, as they are", "bits per byte", "lower", 3),
        Column("own_bpb", "Words, tempered", "bits per byte", "lower", 3),
        Column("temperature", "Temperature", "", None, 0),
        Column("larger_bpb", "Larger dictionary", "bits per byte", "lower", 3),
        Column("own_bytes_per_token", "Token", "bytes", None, 2),
        Column("larger_bytes_per_token", "Token, larger", "bytes", None, 2),
    ),
    note="Of excerpts of the test split.",
)
ROBUSTNESS = robustness(NAMES, "What is in no dictionary is spelled in bytes.")

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(WORD_TABLE, READINGS, ROBUSTNESS),
    anchor="bpe_transformer",
)
