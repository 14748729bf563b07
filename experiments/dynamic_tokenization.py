"""Retrofitting large language models with dynamic tokenization (Feher, Vulić, Minixhofer 2024, arXiv 2411.18553).

The paper's claim: texts can be merged further batch by batch, into tokens of no vocabulary whose rows a hypernetwork
predicts, so that sequences get over a fifth shorter at little loss; and a decoder can write from a vocabulary of a
million such tokens, of which an approximate search for near neighbours looks at few.

    lmlab table dynamic_tokenization --scale smoke
    lmlab table dynamic_tokenization --scale small
    lmlab show dynamic_tokenization --scale paper      a model of TinyLlama's shape

Both arms read the same base model: further tokens get the mean of their pieces' rows (FVT), or those that a
hypernetwork predicts, trained as ZeTT's. It reads a token's first few pieces alone, the mean all of them; the tables
show for how many tokens that leaves something out. Neither model is adapted; the authors train LoRA adapters for
encoders. Three tables:

- prompts: the first half of a text is merged, by a share of what words allow, and the second predicted in the model's
  own tokens, as they prefill Mistral.
- encoding: whole texts are merged and averaged over the states above them; the nearest other piece should be of the
  same document. It stands for the authors' XNLI with XLM-R; the model here sees to the left only.
- large: the model reads and predicts frequent words as whole tokens, without training; and an inverted file is
  compared with the exact search. The authors' index is a graph (HNSW).

Any run can have the evaluators: `lmlab.evaluation.dynamic.DynamicTokens` and `lmlab.evaluation.large_vocabulary`. To
generate by such a head: `lmlab.models.nearest_head.with_nearest_head`.
"""

import dataclasses

from lmlab.comparison import HYPERNETWORKS, Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.evaluation.dynamic import DynamicTokens
from lmlab.evaluation.large_vocabulary import LargeVocabulary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.llama import LlamaStack
from lmlab.text.bpe import BPE

PAPER = Paper(
    title="Retrofitting Large Language Models with Dynamic Tokenization",
    year=2024,
    url="arXiv 2411.18553",
    claim="Merging tokens batch by batch, with rows from a hypernetwork, shortens sequences by over a fifth at little "
    "loss, and a nearest-neighbour index makes generation from a million tokens fast.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 160_000, 2048, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_640_000, 4096, 512, 200, 3e-3, 40_000),
    "paper": Setup(StandardLibrary(), 100_000_000_000, 2**21, 8192, 2048, 4e-4, 1_000_000, "bfloat16"),
}
TOKENS = {"smoke": BPE(400, 1.8), "small": BPE(1024, 2.55), "paper": BPE(32_000, 4.0)}
SHARES = (0, 20, 40, 60, 80, 100)  # of what can be merged, in %
READERS = {
    "smoke": (
        DynamicTokens(SHARES, batch=8, size=256, pieces=16),
        LargeVocabulary(1024, 16, 4, 16, size=256, pieces=8),
    ),
    "small": (DynamicTokens(SHARES), LargeVocabulary()),
    "paper": (DynamicTokens(SHARES, size=4096), LargeVocabulary(1_000_000, 4096, 32, 64, size=4096, batch=1)),
}


def fvt(scale):
    """The base model, trained on static tokens; rows of others are means."""
    if scale == "paper":
        stack = LlamaStack(22, 2048, 5632, 32, 4, 64)
    else:
        layers, width, heads = {"smoke": (2, 64, 2), "small": (2, 128, 4)}[scale]
        stack = transformer(layers, width, n_heads=heads)
    tokenizer = TOKENS[scale]
    run = SETUPS[scale].run(LanguageModel(tokenizer.vocab_size, stack), tokenizer=tokenizer)
    return dataclasses.replace(run, evaluators=(BitsPerByte("test"), *READERS[scale]))


def hypernetwork(scale):
    """Trained with the base, of which nothing changes."""
    base = fvt(scale)
    return HYPERNETWORKS[scale].run(base, base.evaluators)


ARMS = (
    Arm("fvt", "Mean of the pieces (FVT)", fvt),
    Arm("hypernetwork", "Hypernetwork", hypernetwork, size="sampled tokens"),
)
NAMES = tuple(arm.name for arm in ARMS)


def by_share(key, unit, better, digits):
    """Columns of a metric by the share that is merged."""
    return tuple(Column(f"{key}/{share}", f"{share}%", unit, better, digits) for share in SHARES)


PROMPTS = Table(
    name="prompts",
    title="Bits per byte of the second half of a text, behind a first half merged by a share of what words allow",
    arms=NAMES,
    measured=by_share("prefix", "bits per byte", "lower", 3),
    source="arXiv 2411.18553; its tables were not to be had",
)
ENCODING = Table(
    name="encoding",
    title="Pieces whose nearest is of the same document, merged by a share of what words allow",
    arms=NAMES,
    measured=(
        *by_share("match", "% found", "higher", 1),
        Column("match_chance", "By chance", "% found", None, 1),
        *by_share("shorter", "% fewer tokens", None, 1),
        *by_share("truncated", "% read in part", "lower", 1)[1:],
    ),
    note="Vectors are means of the states of a model that sees to the left. The authors' own file of results "
    "(DariusFeher/dynamic-tokenization, 6686e72f; XLM-R base on XNLI in English, a run of June 2024) has an accuracy of 84.30, "
    "84.54, 84.26, 83.49, 82.81 and 82.61% at 0, 20, 40, 60, 80 and 100%, at up to 14.7% fewer tokens.",
)
LARGE = Table(
    name="large",
    title="Frequent words as whole tokens, and an inverted file that looks for the likeliest",
    arms=NAMES,
    measured=(
        Column("large_ids", "Ids", "", None, 0),
        Column("own_bytes_per_token", "Token", "bytes, own", None, 2),
        Column("large_bytes_per_token", "Token", "bytes, large", None, 2),
        Column("truncated", "Words", "% read in part", "lower", 1),
        Column("large_bpb", "All ids", "bits per byte", "lower", 3),
        Column("recall_1", "Likeliest", "% found", "higher", 1),
        Column("recall_10", "Of ten likeliest", "% found", "higher", 1),
        Column("mass", "Probability", "% found", "higher", 1),
        Column("compared", "Rows", "% looked at", "lower", 1),
    ),
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(PROMPTS, ENCODING, LARGE), anchor="fvt"
)
