"""Toward a theory of tokenization in LLMs (Rajaraman, Jiao, Ramchandran 2024, arXiv 2404.08335).

The paper's claim: on text of a Markov chain of order 2 or more, transformers over characters stay at the loss of the
best unigram model for long; over the tokens of a dictionary even a unigram model is nearly optimal, and small
transformers get there soon.

    lmlab table theory_tokenization --scale smoke
    lmlab table theory_tokenization --scale small
    python -m experiments.theory_tokenization runs/theory_tokenization/small FIGURE.png      losses against steps, drawn

The chain is the paper's: two symbols, the next depends on the one k places before, and differs from it with probability
0.8; the best loss is 0.500 nats per character, that of a unigram model ln 2 = 0.693. The paper's Figure 2: at order 2 a
character model stays at 0.693 for the whole plot (about 175 iterations), a model of 10 BPE tokens reaches the optimum;
long training (about 8,000 iterations) lets the former off the plateau, later at order 4. The blocks here are Llama's. A
rotary key finds the symbol k places back by itself, and how long the plateau is may hang on the positions: arms with
rotary positions stand beside arms with learned ones, as in the paper's GPT-2. The unigram arms train nothing: tokens
are counted, and the loss goes to the optimum as the dictionary grows, as the paper's bound says.

At scale paper: width 20, 3 layers, 1 head, as in its Figure 5b, 8,000 steps of AdamW at 0.002 with a cosine (its Table
3).
"""

import dataclasses
import json
import math
import pathlib
import sys

from lmlab.comparison import LOST
from lmlab.data.markov import SwitchingChain
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.evaluation.chains import AgainstChain, token_unigram_nats
from lmlab.experiment import Arm, Column, Experiment, Paper, Run, Study, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.positions import LearnedPositions
from lmlab.text.dictionary import Dictionary
from lmlab.training.optimizers import AdamW, Cosine

PAPER = Paper(
    title="Toward a Theory of Tokenization in LLMs",
    year=2024,
    url="arXiv 2404.08335",
    claim="Transformers over characters fail to learn Markov chains of higher order for long; over tokens, even unigram "
    "models are nearly optimal.",
)

# Layers, width, heads; steps, rows; characters per row.
SIZES = {
    "smoke": ((1, 20, 1), (40, 8), 128),
    "small": ((3, 20, 1), (1000, 8), 512),
    "paper": ((3, 20, 1), (8000, 16), 512),
}
BYTES_PER_TOKEN = {(0, "pairs"): 1.0, (10, "pairs"): 3.7, (20, "pairs"): 5.0, (20, "lzw"): 3.5}


def chain_of(order, scale):
    """The paper's chain."""
    return SwitchingChain(order, count=60 if scale == "smoke" else 400, size=2000 if scale == "smoke" else 10_000)


def rotary(layers, width, heads, length):
    """Llama's positions."""
    return transformer(layers, width, 4 * width, heads)


def absolute(layers, width, heads, length):
    """GPT-2's: a learned vector for each, and nothing rotated."""
    return LearnedPositions(rotary(layers, width, heads, length).clone(rotary_dim=0), length)


def learned(order, size, learned="pairs", encoded="merges", backbone=rotary):
    """scale -> Run on a dictionary of `size` tokens."""

    def run(scale):
        (layers, width, heads), (steps, rows), characters = SIZES[scale]
        chain, ratio = chain_of(order, scale), BYTES_PER_TOKEN[size, learned]
        tokenizer, length = Dictionary(size, learned, encoded, ratio), round(characters / ratio)
        return Run(
            model=LanguageModel(tokenizer.vocab_size, backbone(layers, width, heads, length)),
            corpus=chain,
            tokenizer=tokenizer,
            optimizer=AdamW(2e-3, Cosine(), weight_decay=1e-3),
            steps=steps,
            batch_size=rows,
            length=length,
            evaluators=(BitsPerByte("test"), AgainstChain(chain)),
            evaluate_every=steps // 20 * 2 if scale == "smoke" else steps // 20,
            checkpoint_every=min(steps // 2, LOST),
            log_every=steps // 20 * 2 if scale == "smoke" else 10,
        )

    return run


DICTIONARIES = (2, 5, 10, 20, 50, 100, 200)


@dataclasses.dataclass(frozen=True)
class TokenUnigram(Study):
    """Loss of the best unigram model over tokens, by the size of the dictionary."""

    learned: str = "pairs"
    encoded: str = "merges"

    def measure(self):
        """{"d<size>": nats per character, "optimal", "unigram"}."""
        chain, by_split = self.corpus, {}
        for document in chain.documents():
            by_split.setdefault(document.split, []).append(document.data)
        result = {"optimal": chain.entropy_rate(), "unigram": chain.unigram_entropy()}
        for size in DICTIONARIES:
            recipe = Dictionary(0 if size == 2 else size, self.learned, self.encoded)
            result[f"d{size}"] = token_unigram_nats(recipe.train(by_split["train"]), by_split["train"], by_split["test"])
        return result


def counted(order, *how):
    """scale -> Study."""
    return lambda scale: TokenUnigram(chain_of(order, scale), 0, *how)


OTHER = "other tokens"
ARMS = (
    Arm("bpe10", "BPE, 10 tokens", learned(2, 10)),
    Arm("bpe20", "BPE, 20 tokens", learned(2, 20), size=OTHER),
    Arm("lzw20", "LZW, 20 tokens", learned(2, 20, "lzw", "greedy"), size=OTHER),
    Arm("characters", "Characters", learned(2, 0), size=OTHER),
    Arm("bpe10_absolute", "BPE, 10 tokens, GPT-2's positions", learned(2, 10, backbone=absolute)),
    Arm("characters_absolute", "Characters, GPT-2's positions", learned(2, 0, backbone=absolute), size=OTHER),
    Arm("bpe20_order4", "Order 4: BPE, 20 tokens", learned(4, 20), size=OTHER),
    Arm("characters_order4", "Order 4: characters", learned(4, 0), size=OTHER),
    Arm("unigram_bpe", "BPE, counted", counted(2, "pairs", "merges")),
    Arm("unigram_greedy", "BPE, encoded greedily", counted(2, "pairs", "greedy")),
    Arm("unigram_lzw", "LZW, counted", counted(2, "lzw", "greedy")),
    Arm("unigram_bpe_order4", "Order 4: BPE, counted", counted(4, "pairs", "merges")),
)

NATS = "nats per character"
LOSSES = Table(
    name="losses",
    title="Transformers on a switching chain, p = q = 0.8",
    arms=tuple(arm.name for arm in ARMS[:8]),
    measured=(
        Column("nats", "Test", NATS, "lower", 4),
        Column("optimal", "Optimum", NATS, None, 4),
        Column("unigram", "Best unigram", NATS, None, 4),
        Column("closed", "Of the way", "% from unigram to optimum", "higher", 1),
        Column("bytes_per_token", "Token", "characters", None, 2),
        Column("parameters", "Parameters", "", None, 0),
    ),
    note="The paper plots losses and prints no table of them; its axes agree with the optimum and the best unigram loss.",
)
COUNTED = Table(
    name="counted",
    title="The best unigram model over tokens, by the size of the dictionary",
    arms=tuple(arm.name for arm in ARMS[8:]),
    measured=(
        *(Column(f"d{size}", f"{size} tokens", NATS, "lower", 4) for size in DICTIONARIES),
        Column("optimal", "Optimum", NATS, None, 4),
        Column("unigram", "Best unigram", NATS, None, 4),
    ),
    note="With 2 tokens, the characters, this is the best unigram model itself.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(LOSSES, COUNTED), anchor="bpe10"
)


def draw(runs, path):
    """Held-out losses of the runs of order 2 in the folder `runs` (those of seed 0) against steps."""
    from lmlab.report.figures import draw_losses

    curves = {}
    for arm in ARMS[:6]:
        metrics = pathlib.Path(runs, arm.name, "seed0", "metrics.jsonl")
        if metrics.exists():
            lines = [json.loads(line) for line in metrics.read_text().splitlines()]
            lines = [line for line in lines if line["kind"] == "evaluation"]
            curves[arm.label] = [l["step"] for l in lines], [l["bpb"] * math.log(2) for l in lines]
    chain = chain_of(2, "small")
    across = {"best unigram": chain.unigram_entropy(), "optimum": chain.entropy_rate()}
    draw_losses(path, curves, across, "Order 2, p = q = 0.8")


if __name__ == "__main__":
    draw(*sys.argv[1:3])
