"""Qtok: a framework for evaluating multilingual tokenizer quality (abstract only).

The paper's claim: measures of language coverage, completeness of tokens and their distribution over languages and kinds
show large differences between 13 tokenizers of public models, and a bias to Latin script.

    lmlab table qtok --scale smoke
    lmlab table qtok --scale small --corpus FOLDER       one file per language, such as NTREX-128
    lmlab train qtok/published --scale small --corpus FOLDER --set file=PATH       of any tokenizer file

No model is trained. Tokenizers are trained on every other line of the languages together and used on the lines between.
Without --corpus the languages are one English text in four scripts. Every token is of one kind (letters, numbers,
punctuation, white space, control, mixed, a fragment of characters, special), and tokens of letters are of one script or
of several. The abstract names the measures and no formulas: these are our reading of it.
"""

import dataclasses

from lmlab.data.categories import halves
from lmlab.data.parallel import ParallelText
from lmlab.evaluation.tokenizer_audit import audit
from lmlab.experiment import Arm, Column, Experiment, Paper, Study, Table
from lmlab.text.bpe import BPE
from lmlab.text.tokenizer_file import TokenizerFile
from lmlab.text.unigram import Unigram

PAPER = Paper(
    title="Qtok: A Comprehensive Framework for Evaluating Multilingual Tokenizer Quality in Large Language Models",
    year=2024,
    url="abstract only",
    claim="Tokenizers of public models differ much in how their tokens are distributed over languages and kinds.",
)

KEYS = (
    "vocabulary", "kind/letters", "kind/numbers", "kind/punctuation", "kind/white space", "kind/control", "kind/mixed",
    "kind/fragment", "script/latin", "scripts", "starts_word", "unreachable", "used", "core", "fragments_used",
    "whole_words", "fertility", "bytes_per_token",
)


@dataclasses.dataclass(frozen=True)
class Audit(Study):
    """`audit` of the tokenizer that a recipe trains on half of the text, used on the other."""

    tokenizer: BPE | Unigram = BPE(512)

    def measure(self):
        """The audit's numbers that the table shows."""
        parts = {name: halves(lines) for name, lines in self.corpus.texts().items()}
        tokenizer = self.tokenizer.train(line for train, _ in parts.values() for line in train)
        found = audit(tokenizer, {name: held for name, (_, held) in parts.items()})
        return {key: float(found.get(key, 0.0)) for key in KEYS}


@dataclasses.dataclass(frozen=True)
class AuditFile(Audit):
    """That of a tokenizer file, `--set file=PATH`, used on the same half."""

    file: str = ""

    def check(self):
        """UserError if there is no file."""
        TokenizerFile(self.file).read()
        super().check()

    def measure(self):
        """The audit's numbers that the table shows."""
        held = {name: halves(lines)[1] for name, lines in self.corpus.texts().items()}
        found = audit(TokenizerFile(self.file).read(), held)
        return {key: float(found.get(key, 0.0)) for key in KEYS}


SIZES = {"smoke": (384, 640, 800), "small": (2048, 16384, 2000)}  # ids, more ids, lines


def study(recipe):
    """scale -> Study. `recipe`: (fewer ids, more) -> recipe."""
    return lambda scale: Audit(ParallelText(None, (), SIZES[scale][2]), 0, recipe(*SIZES[scale][:2]))


ARMS = (
    Arm("bpe", "BPE", study(lambda few, many: BPE(few))),
    Arm("bpe_large", "BPE, more ids", study(lambda few, many: BPE(many))),
    Arm("unigram", "Unigram", study(lambda few, many: Unigram(few))),
    Arm("unigram_large", "Unigram, more ids", study(lambda few, many: Unigram(many))),
    Arm("published", "A published tokenizer", lambda scale: AuditFile(ParallelText()),
        {"small": "needs --set file=PATH."}, ("small",)),
)

TOKENS = "% of tokens"
VOCABULARY = Table(
    name="vocabulary",
    title="What the tokens are",
    arms=("bpe", "bpe_large", "unigram", "unigram_large"),
    measured=(
        Column("vocabulary", "Vocabulary", "ids", None, 0),
        Column("kind/letters", "Letters", TOKENS, None, 1),
        Column("kind/numbers", "Numbers", TOKENS, None, 1),
        Column("kind/punctuation", "Punctuation", TOKENS, None, 1),
        Column("kind/white space", "White space", TOKENS, None, 1),
        Column("kind/control", "Control", TOKENS, None, 1),
        Column("kind/mixed", "Mixed", TOKENS, None, 1),
        Column("kind/fragment", "Fragments", TOKENS, "lower", 1),
        Column("script/latin", "Latin", "% of tokens of letters", None, 1),
        Column("scripts", "Scripts", "with tokens of letters", "higher", 0),
        Column("starts_word", "Word starts", "% of tokens of letters", None, 1),
        Column("unreachable", "Unreachable", TOKENS, "lower", 1),
    ),
    note="Fragments are no whole characters; each of the 256 bytes is a token, half of them fragments. The paper's own "
    "tables were not read.",
)
USE = Table(
    name="use",
    title="How the tokens are used",
    arms=VOCABULARY.arms,
    measured=(
        Column("used", "Used", TOKENS, "higher", 1),
        Column("core", "In every language", TOKENS, None, 1),
        Column("fragments_used", "Fragments", "% of the text's tokens", "lower", 1),
        Column("whole_words", "Whole words", "% of words that are one token", "higher", 1),
        Column("fertility", "Fertility", "tokens per word", "lower", 2),
        Column("bytes_per_token", "Token", "bytes", "higher", 2),
    ),
    note="On held-out lines; means over the languages.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small"), arms=ARMS, tables=(VOCABULARY, USE), anchor="bpe")
