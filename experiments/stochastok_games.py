"""StochasTok's games (Sims et al. 2025, arXiv 2506.01687): what are a model's tokens made of, once it has been taught to say?

The paper's claim: models that were pretrained on text whose tokens are split at random learn games about characters nearly
to the end, where the tokenizer's own tokens and BPE-dropout leave them well below.

    lmlab table stochastok_games --scale smoke
    lmlab table stochastok_games --scale small
    lmlab show stochastok_games --scale paper

One model over one vocabulary is pretrained on text that is cut into tokens in three ways, as in `stochastok`, and all then
learn the games alike, in the tokenizer's own tokens; one learns the games alone. The games are answered questions about
characters of words, ten tasks after CharBench and CUTE (see `charbench`), and are asked about words that they were not
learned with: the right answer must be likelier than three wrong ones (one where the answer is yes or no). The paper's own
LangGame asks for the word that begins with, ends with or holds something, or is longest, and was not written again; it
continues 50M parameters of 30,000 steps for 3,000 at 1e-4, as the arms do at paper scale.
"""

from lmlab.comparison import Setup, following
from lmlab.data.character_tasks import TASKS, CharacterTaskText
from lmlab.data.corpora import StandardLibrary
from lmlab.data.corruptions import NextTokens
from lmlab.data.foreign_tokenizer import TrainedOn
from lmlab.data.segmentations import BPEDropout, StochasTok
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.evaluation.character_tasks import CharacterTasks
from lmlab.experiment import Arm, Column, Experiment, Paper, Run, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bpe import BPE
from lmlab.training.optimizers import WSD, AdamW

PAPER = Paper(
    title="StochasTok: Improving Fine-Grained Subword Understanding in LLMs: the games",
    year=2025,
    url="arXiv 2506.01687",
    claim="Models that saw tokens split at random in pretraining learn games about characters nearly to the end; others stay "
    "well below.",
)

# Of the pretraining.
SETUPS = {
    "smoke": Setup(StandardLibrary(2_000_000), 100_000, 2048, 256, 128, 3e-3, 0),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 4_000_000, 4096, 512, 200, 3e-3, 0),
    "paper": Setup(StandardLibrary(), 30_000 * 480 * 2048, 480 * 2048, 2048, 512, 6e-4, 0, "bfloat16"),
}
SHAPES = {"smoke": (1, 64, 288, 2), "small": (3, 96, 272, 4), "paper": (8, 512, 1320, 16)}  # layers, width, MLP, heads
TOKENS = {"smoke": (512, 2.05, 1.6), "small": (1024, 2.55, 1.9), "paper": (50_257, 4.0, 2.5)}  # ids; bytes of one: text, games

# Documents; steps, rows, tokens per row; learning rate; questions per task.
GAMES = {
    "smoke": (500, (60, 16, 128), 2e-3, 5),
    "small": (20_000, (600, 16, 256), 2e-3, 150),
    "paper": (2_000_000, (3000, 480, 512), 1e-4, 150),
}


def games(scale):
    """The Run that learns the games, from nothing."""
    layers, width, d_ff, heads = SHAPES[scale]
    documents, (steps, rows, length), rate, questions = GAMES[scale]
    ids, _, of_games = TOKENS[scale]
    return Run(
        model=LanguageModel(ids, transformer(layers, width, d_ff, heads), tied=True),
        corpus=CharacterTaskText(documents),
        tokenizer=TrainedOn(BPE(ids, of_games), SETUPS[scale].corpus),
        optimizer=AdamW(rate, WSD(0.1, 0.3)),
        steps=steps,
        batch_size=rows,
        length=length,
        evaluators=(BitsPerByte("test"), CharacterTasks(questions=questions)),
        evaluate_every=steps // 2,
        checkpoint_every=min(steps // 2, 500),
        precision=SETUPS[scale].precision,
    )


def behind(corruption):
    """scale -> the same behind pretraining on text that `corruption` cuts."""

    def at(scale):
        setup, run = SETUPS[scale], games(scale)
        ids, of_text, _ = TOKENS[scale]
        tokenizer, positions = TrainedOn(BPE(ids, of_text), setup.corpus), getattr(corruption, "positions", lambda tokens: tokens)
        first = setup.run(run.model, tokenizer=tokenizer, corruption=corruption, length=positions(setup.tokens))
        return following(first, run)

    return at


ARMS = (
    Arm("deterministic", "The tokenizer's own", behind(NextTokens())),
    Arm("bpe_dropout", "BPE-dropout", behind(BPEDropout())),
    Arm("stochastok", "StochasTok", behind(StochasTok())),
    Arm("games_alone", "No pretraining", games),
)

TABLE = Table(
    name="games",
    title="Questions about characters of words that were held out, behind pretraining",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        *(Column(f"characters/{task}", task.capitalize(), "% right", "higher", 1) for task in TASKS),
        Column("characters", "Mean", "% right", "higher", 1),
        Column("characters_unasked", "Another word asked", "% right", None, 1),
        Column("characters_chance", "By chance", "% right", None, 1),
        Column("bpb", "Games", "bits per byte", "lower", 3),
    ),
    note="The paper shows plots: of the way from chance to all right, about 0.98 to 1.00 of LangGame and 0.83 to 0.88 of CUTE "
    "with StochasTok, 0.75 to 0.80 and 0.55 to 0.60 with BPE-dropout, 0.60 to 0.68 and 0.62 to 0.65 with the tokenizer's own "
    "tokens, and 0.05 to 0.10 and 0.25 without pretraining, at 50M parameters.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE,), anchor="deterministic"
)
