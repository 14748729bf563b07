"""TokenAdapt and supertokens: achieving tokenizer flexibility in language models through heuristic adaptation and
supertoken learning (2025; known here by its abstract and secondary texts).

The paper's claims: rows for new tokens that mix a local estimate, from the old tokens that write the new one, with a
global one, from the old tokens that mean the like, keep more of a model than either and than ReTok and TransTokenizer,
at least twice as much in ratios of perplexity; and supertokens of several words, learned by a BPE whose pre-tokenizer
lets random chunks of text through, compress more.

    lmlab table tokenadapt --scale smoke
    lmlab table tokenadapt --scale small [--corpus PATH]
    lmlab show tokenadapt --scale paper      a model of Llama 3.2's 1B shape

A base model over BPE tokens is trained, and then scored without training under two new tokenizers learned from the
same text: a larger BPE, and supertokens. New rows are the mean of all, the mean of the pieces (ReTok's; FVT),
TokenAdapt's local estimate, its global one, or both.

Where the paper asks a model of texts how like two tokens are, hashed n-grams of their bytes stand in, which know the
spelling and not the sense: so the global estimate is poorer here. The share of 0.3 and the temperature of 0.3 are from
a secondary text. How many words a chunk has is drawn with chances chosen here. TransTokenizer, which aligns parallel
text, is left out.
"""

from lmlab.comparison import PROSE_SETUPS, Setup
from lmlab.data.library_parts import LibraryPart
from lmlab.evaluation.vocabulary import Compression
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.llama import LlamaStack
from lmlab.objectives.transferred import Transferred
from lmlab.text.bpe import BPE
from lmlab.text.pairs import Beside
from lmlab.text.supertokens import Supertokens

PAPER = Paper(
    title="Achieving Tokenizer Flexibility in Language Models through Heuristic Adaptation and Supertoken Learning",
    year=2025,
    url="abstract only",
    claim="New rows from pieces and from alike tokens together keep more of a model than earlier heuristics, and "
    "supertokens of several words compress more.",
)

SETUPS = PROSE_SETUPS | {
    "paper": Setup(LibraryPart(), 100_000_000_000, 2**21, 8192, 2048, 3e-4, 1_000_000, "bfloat16"),
}
BASES = {"smoke": BPE(400, 1.54), "small": BPE(1024, 2.39), "paper": BPE(128_256, 4.4)}
NEW = {
    "bpe": {"smoke": BPE(512, 1.65), "small": BPE(2048, 2.81), "paper": BPE(151_936, 4.4)},
    "super": {"smoke": Supertokens(512, 1.68), "small": Supertokens(2048, 2.95), "paper": Supertokens(151_936, 5.5)},
}
METHODS = {
    "mean": ("mean", "mean of all"),
    "retok": ("fvt", "mean of the pieces"),
    "local": ("tokenadapt_local", "local"),
    "global": ("tokenadapt_global", "global"),
    "hybrid": ("tokenadapt", "local and global"),
}
LABELS = {"bpe": "BPE", "super": "Supertokens"}


def model(scale, tokenizer):
    """Old and new are alike but for their vocabulary."""
    if scale == "paper":
        stack = LlamaStack(16, 2048, 8192, 32, 8, 64, rotary_base=5e5, stretch=(32.0, 1.0, 4.0, 8192.0))
    else:
        layers, width, heads = {"smoke": (2, 64, 2), "small": (4, 128, 4)}[scale]
        stack = transformer(layers, width, n_heads=heads)
    return LanguageModel(tokenizer.vocab_size, stack, tied=scale == "paper")


def base(scale):
    """The model that is given other tokenizers."""
    tokenizer = BASES[scale]
    length = round(SETUPS[scale].length / tokenizer.bytes_per_token)  # bytes of a row as in the adapted arms
    return SETUPS[scale].run(model(scale, tokenizer), tokenizer=tokenizer, length=length)


def adapted(kind, method):
    """scale -> Run of the base model with a new tokenizer."""

    def run(scale):
        new, old = NEW[kind][scale], BASES[scale]
        objective = Transferred(teacher=base(scale), method=method)
        return SETUPS[scale].untrained(model(scale, new), Beside(new, old, 1.5), objective=objective)

    return run


def compression(kind):
    """scale -> Study of a new tokenizer, beside BPE with as many ids."""

    def study(scale):
        other = NEW["bpe"][scale] if kind == "super" else None
        return Compression(SETUPS[scale].corpus, tokenizer=NEW[kind][scale], beside=other)

    return study


ARMS = (
    Arm("base", "Base model, its own tokenizer", base),
    *(
        Arm(f"{kind}_{name}", f"{label}, {said}", adapted(kind, method), size=f"the new tokens: {label}")
        for kind, label in LABELS.items()
        for name, (method, said) in METHODS.items()
    ),
    *(Arm(f"{kind}_tokens", label, compression(kind)) for kind, label in LABELS.items()),
)

ADAPTED = Table(
    name="adapted",
    title="Bits per byte under new tokenizers, without training",
    arms=("base", *(f"{kind}_{name}" for kind in LABELS for name in METHODS)),
    measured=(
        Column("bytes_per_token", "Token", "bytes", None, 2),
        Column("validation_bpb", "Validation", "bits per byte", "lower", 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    source="the paper's ratios of perplexity were not to be had",
    note="Hashed n-grams stand in for the paper's model of texts. Ten steps at a rate of 1e-6 stand for no training.",
)
COMPRESSION = Table(
    name="compression",
    title="As many ids, learned within words and within random chunks",
    arms=tuple(f"{kind}_tokens" for kind in LABELS),
    measured=(
        Column("vocabulary", "Vocabulary", "ids", None, 0),
        Column("bytes_per_token", "Token", "bytes", "higher", 2),
        Column("saved", "Saved", "% of tokens", "higher", 1),
        Column("phrases", "Phrases", "% of tokens", None, 1),
        Column("types", "Types", "% of ids in the text", None, 1),
        Column("unigram_bpb", "Unigram", "bits per byte", "lower", 3),
    ),
    note="Of the test split. Unigram: by the frequencies of the text itself. Phrases: tokens with a space inside.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(ADAPTED, COMPRESSION), anchor="base"
)
