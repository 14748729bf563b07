"""Data mixture inference: what do BPE tokenizers reveal about their training data? (Hayase et al., arXiv 2407.16607)

The paper's claim: the order of a tokenizer's merges gives away how often every pair of tokens occurred in its training
data, and so, by a linear programme, the shares of known categories in it.

    lmlab table mixture_inference --scale smoke
    lmlab table mixture_inference --scale small --corpus FOLDER      a text per file or folder, such as NTREX-128's

No model is trained. For every trial shares are drawn evenly from all mixtures of `categories` texts, a BPE is trained
on one half of the texts mixed by them, and the shares are inferred from its merges and the other half. The score is the
mean of log10 of the mean squared error. Without --corpus there are two categories, the prose and the code of Python's
standard library; arms of more of them need a folder that has as many. The paper's texts are a thousand times longer:
the error that is left here is mostly that one half of so short a text is not like the other.
"""

import dataclasses

import numpy as np

from lmlab.data.categories import Categories, halves
from lmlab.errors import UserError
from lmlab.evaluation.mixture_inference import guesses, infer_mixture, log_mean_squared_error, random_mixture, take
from lmlab.experiment import Arm, Column, Experiment, Paper, Study, Table
from lmlab.text.bpe import train_bpe_up_to
from lmlab.text.merges import count_words

PAPER = Paper(
    title="Data Mixture Inference: What do BPE Tokenizers Reveal about their Training Data?",
    year=2024,
    url="arXiv 2407.16607",
    claim="A linear programme over the ordered merges of a BPE tokenizer recovers the shares of its training data with high "
    "precision.",
)


@dataclasses.dataclass(frozen=True)
class MixtureInference(Study):
    """Trials of inference on mixtures that are known."""

    categories: int = 2
    merges: int = 300  # fewer where the text holds no more pairs
    trials: int = 3
    train_bytes: int = 200_000  # of the tokenizer; less where the shortest half has less

    def check(self):
        """UserError unless there are as many texts as categories, two or more, and merges and trials to infer them by."""
        self.corpus.check(self.categories)
        for name, least in (("categories", 2), ("merges", 1), ("trials", 1), ("train_bytes", 1)):
            if getattr(self, name) < least:
                raise UserError(f"Mixture inference needs {name} of at least {least}, not {getattr(self, name)}.")

    def measure(self):
        """{"log_mse", "log_mse_spread" over trials, "random", "uniform", "largest_error" of a share, in points, "merges"
        of a tokenizer, "bytes" that it was trained on}."""
        texts = self.corpus.texts()
        rng, errors, largest, seen = np.random.default_rng(self.seed), [], [], []
        for _ in range(self.trials):
            chosen = rng.choice(len(texts), self.categories, replace=False)
            parts = [halves(list(texts.values())[i]) for i in sorted(chosen)]
            truth = random_mixture(self.categories, rng)
            size = min(self.train_bytes, *(sum(map(len, train)) for train, _ in parts))
            mixed = [d for share, (train, _) in zip(truth, parts, strict=True) for d in take(train, int(share * size))]
            merges = train_bpe_up_to(mixed, 258 + self.merges).merges
            seen.append(len(merges))
            shares = infer_mixture(merges, [count_words(held) for _, held in parts])
            errors.append(float(log_mean_squared_error(shares, truth)))
            largest.append(100 * float(np.abs(shares - truth).max()))
        random, uniform = guesses(self.categories, rng)
        return {
            "log_mse": float(np.mean(errors)),
            "log_mse_spread": float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0,
            "random": random,
            "uniform": uniform,
            "largest_error": float(np.mean(largest)),
            "merges": float(np.mean(seen)),
            "bytes": float(size),
        }


SIZES = {  # merges, trials, bytes of the tokenizer's text, bytes of each text that are read
    "smoke": (100, 2, 60_000, 150_000),
    "small": (300, 10, 1_000_000, 2_500_000),
}


def study(categories):
    """scale -> Study of so many categories."""

    def at(scale):
        merges, trials, size, most = SIZES[scale]
        return MixtureInference(Categories(max_bytes=most), 0, categories, merges, trials, size)

    return at


ARMS = (
    Arm("two", "2 categories", study(2)),
    *(Arm(f"of{n}", f"{n} categories", study(n), scales=("small",),
          notes={"small": f"needs --corpus FOLDER with {n} texts or more."}) for n in (5, 10, 30)),
)

ERROR = "log10 of mean squared error"
TABLE = Table(
    name="error",
    title="Error of the inferred shares",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("log_mse", "Inferred", ERROR, "lower", 2),
        Column("log_mse_spread", "Over trials", "standard deviation", None, 2),
        Column("random", "Random guess", ERROR, None, 2),
        Column("uniform", "Equal shares", ERROR, None, 2),
        Column("largest_error", "Largest error", "% of the text", "lower", 1),
        Column("merges", "Merges", "mean", None, 0),
        Column("bytes", "Tokenizer's text", "bytes", None, 0),
    ),
    reported_columns=(
        Column("languages", "Languages", ERROR, "lower", 2),
        Column("code", "Code", ERROR, "lower", 2),
        Column("domains", "Domains", ERROR, "lower", 2),
        Column("random", "Random guess", ERROR, None, 2),
        Column("uniform", "Equal shares", ERROR, None, 2),
    ),
    reported={
        "of5": {"languages": -7.30, "code": -6.46, "domains": -3.41, "random": -1.39, "uniform": -1.67},
        "of10": {"languages": -7.66, "code": -6.30, "random": -1.84, "uniform": -2.14},
        "of30": {"languages": -7.73, "code": -5.98, "random": -2.70, "uniform": -3.01},
    },
    source="the result notebook of the authors' repository (alisawuffles/tokenizer-attack, 16a44aab), mean of 100 trials, "
    "about 29,800 merges",
    note="A guess does not depend on the text: those of both sides should agree.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small"), arms=ARMS, tables=(TABLE,), anchor="two")
