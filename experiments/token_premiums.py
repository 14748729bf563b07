"""Token premiums: explaining and mitigating crosslingual tokenizer inequities (2025; known here by its abstract).

The paper's claim: monolingual tokenizers of one vocabulary size need very different numbers of tokens for the same text
in different languages; a vocabulary size chosen for each language, or merges across white space, make them more equal.

    lmlab table token_premiums --scale smoke
    lmlab table token_premiums --scale small --corpus FOLDER       parallel text, such as NTREX-128
    lmlab train token_premiums/published --scale small --corpus FOLDER --set file=PATH      of any tokenizer file

No model is trained. Tokenizers are trained on every other line of each language and counted on the lines between.
Without --corpus the "languages" are one English text in four scripts, so that all that differs is the bytes of a
letter. Arms: bytes; one BPE of English and one of all languages, as multilingual models have; and monolingual
tokenizers, as the paper has 7,000: BPE, Unigram, BPE of the size at which all languages cost the same, and superwords.
Where a language has too few pairs, its vocabulary is smaller: GPT-2's pre-tokenizer cuts Hindi, Tamil, Telugu, Bengali
and Burmese words at every vowel sign, so that few merges are left.
"""

import dataclasses

from lmlab.data.categories import halves
from lmlab.data.parallel import ParallelText
from lmlab.errors import UserError
from lmlab.evaluation.premiums import corpus_tokens, equal_cost_sizes, premium_metrics
from lmlab.experiment import Arm, Column, Experiment, Paper, Study, Table
from lmlab.text.bpe import train_bpe_up_to
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.superwords import train_superwords
from lmlab.text.tokenizer_file import TokenizerFile
from lmlab.text.unigram import Unigram

PAPER = Paper(
    title="Explaining and Mitigating Crosslingual Tokenizer Inequities",
    year=2025,
    url="abstract only",
    claim="Vocabulary size and pre-tokenization, not similarity of data, explain token premiums; a vocabulary size for each "
    "language, or merges over white space, reduce them.",
)


@dataclasses.dataclass(frozen=True)
class Premiums(Study):
    """Tokens of parallel text under tokenizers that `_trained` makes of {language: lines}."""

    vocab_size: int = 1024

    def measure(self):
        """`premium_metrics` of the held-out half, and "vocabulary", the mean size."""
        parts = {name: halves(lines) for name, lines in self.corpus.texts().items()}
        tokenizers = self._trained({name: train for name, (train, _) in parts.items()})
        texts = {name: held for name, (_, held) in parts.items()}
        tokens = {name: corpus_tokens(tokenizers[name], lines) for name, lines in texts.items()}
        sizes = [t.vocab_size for t in tokenizers.values()]
        return premium_metrics(tokens, texts) | {"vocabulary": sum(sizes) / len(sizes)}


class Bytes(Premiums):
    """No tokenizer."""

    def _trained(self, texts):
        return dict.fromkeys(texts, ByteTokenizer())


class OfOne(Premiums):
    """The tokenizer of one language for all: English, or the first."""

    def _trained(self, texts):
        first = next((name for name in texts if name.startswith("eng")), next(iter(texts)))
        return dict.fromkeys(texts, train_bpe_up_to(texts[first], self.vocab_size))


class OfAll(Premiums):
    """One tokenizer of all languages together."""

    def _trained(self, texts):
        return dict.fromkeys(texts, train_bpe_up_to((line for lines in texts.values() for line in lines), self.vocab_size))


class Monolingual(Premiums):
    """A BPE for each language."""

    def _trained(self, texts):
        return {name: train_bpe_up_to(lines, self.vocab_size) for name, lines in texts.items()}


class MonolingualUnigram(Premiums):
    """A Unigram model for each language."""

    def _trained(self, texts):
        return {name: Unigram(self.vocab_size).train(lines) for name, lines in texts.items()}


class Superwords(Premiums):
    """BPE for each language that goes on across white space after three quarters of its ids."""

    def _trained(self, texts):
        size = self.vocab_size
        return {name: train_superwords(lines, size, size * 3 // 4) for name, lines in texts.items()}


class EqualCost(Premiums):
    """A BPE for each language, of the size at which all take as many tokens for the training lines."""

    def _trained(self, texts):
        if self.vocab_size < 400:
            raise UserError("Sizes of equal cost need a vocabulary of at least 400 to choose from.")
        largest = {name: train_bpe_up_to(lines, self.vocab_size) for name, lines in texts.items()}
        sizes = sorted({258, *(round(258 * (self.vocab_size / 258) ** (k / 8)) for k in range(1, 9)), self.vocab_size})
        chosen = equal_cost_sizes(largest, texts, sizes)
        return {name: largest[name].truncated(size) for name, size in chosen.items()}


@dataclasses.dataclass(frozen=True)
class Published(Premiums):
    """The tokenizer in a file, for all languages: `--set file=PATH`."""

    file: str = ""

    def check(self):
        """UserError if there is no file."""
        TokenizerFile(self.file).read()
        super().check()

    def _trained(self, texts):
        return dict.fromkeys(texts, TokenizerFile(self.file).read())


LANGUAGES = ()  # all that there are
SIZES = {"smoke": (512, 1600), "small": (2048, 2000)}  # ids, lines


def study(kind):
    """scale -> Study."""
    return lambda scale: kind(ParallelText(None, LANGUAGES, SIZES[scale][1]), 0, SIZES[scale][0])


ARMS = (
    Arm("bytes", "Bytes", study(Bytes)),
    Arm("of_one", "BPE of English", study(OfOne)),
    Arm("of_all", "BPE of all", study(OfAll)),
    Arm("monolingual", "Monolingual BPE", study(Monolingual)),
    Arm("unigram", "Monolingual Unigram", study(MonolingualUnigram)),
    Arm("superwords", "Monolingual superwords", study(Superwords)),
    Arm("equal_cost", "Monolingual BPE, sizes of equal cost", study(EqualCost)),
    Arm("published", "A published tokenizer", study(Published), {"small": "needs --set file=PATH."}, ("small",)),
)

TABLE = Table(
    name="premiums",
    title="What the same text costs across languages",
    arms=tuple(arm.name for arm in ARMS if arm.name != "published"),
    measured=(
        Column("vocabulary", "Vocabulary", "ids, mean", None, 0),
        Column("tokens_per_line", "Line", "tokens, mean", "lower", 1),
        Column("spread", "Spread", "% of the mean", "lower", 1),
        Column("largest", "Premium", "most tokens over fewest", "lower", 2),
        Column("fertility", "Fertility", "tokens per word", None, 2),
        Column("bytes_per_token", "Token", "bytes", None, 2),
    ),
    note="The paper's own tables were not read. Words are runs without white space, which some languages do not write: "
    "their fertility is that of a clause.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small"), arms=ARMS, tables=(TABLE,), anchor="monolingual")
