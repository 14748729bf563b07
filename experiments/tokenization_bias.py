"""Understanding and mitigating tokenization bias in language models (Phan et al. 2024, arXiv 2406.16829).

The paper's claim: prompting a model of tokens with an encoded text gives wrong probabilities of what comes next,
however much it is trained; probabilities of strings, summed over the tokens that reach past a text's end, give the
right ones without training anew. Shown on a Markov chain whose transitions are known.

    lmlab table tokenization_bias --scale smoke
    lmlab table tokenization_bias --scale small
    python -m experiments.tokenization_bias FIGURE.png        the exact arm, drawn

A text is drawn from a random chain of order 2 over two symbols and encoded by a dictionary of 10 tokens, greedily
(maximum prefix encoding) or by the merges of a BPE. In the exact arm the law of the tokens is computed from the chain:
what an ideal model would have learned. The bias is then the tokens' alone, and the correction has no error but
rounding. In the others small transformers learn the tokens. Every text of 6 symbols is asked about. Which chain and
dictionary the paper has was not to be had.
"""

import dataclasses
import sys

from lmlab.data.markov import SYMBOLS, RandomChain
from lmlab.decoding.tokenization_bias import greedy_law
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.evaluation.chains import AgainstChain, Transitions, transition_errors, transitions
from lmlab.experiment import Arm, Column, Experiment, Paper, Run, Study, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.dictionary import Dictionary
from lmlab.training.optimizers import AdamW, Cosine

PAPER = Paper(
    title="Understanding and Mitigating Tokenization Bias in Language Models",
    year=2024,
    url="arXiv 2406.16829",
    claim="Encoding a prompt biases what a model of tokens says comes next; corrected, it gives a Markov chain's "
    "transitions.",
)
# For some draws merges and greed encode the text alike, so that two arms would be one; for some, tokens are so long that
# the exact law is a sum over too many texts. This one has neither.
CHAIN = RandomChain(order=2, count=100, size=10_000, draw=2)
# Layers, width, heads; steps, rows, tokens per row; symbols of the texts that are asked about.
SIZES = {
    "smoke": ((1, 32, 2), (60, 8, 128), 4),
    "small": ((2, 64, 4), (1500, 16, 256), 6),
}


@dataclasses.dataclass(frozen=True)
class ExactTransitions(Study):
    """Transitions from the tokens' exact law."""

    dictionary: Dictionary = Dictionary(10, encoded="greedy")
    length: int = 6

    def check(self):
        """UserError for texts of no length."""
        if self.length < 1:
            raise UserError(f"Texts have a length of at least 1, not {self.length}.")
        super().check()

    def transitions(self):
        """As `lmlab.evaluation.chains.transitions`."""
        chain = self.corpus
        tokenizer = self.dictionary.train(d.data for d in chain.documents())
        symbols = [SYMBOLS[i : i + 1] for i in range(chain.tables()[0].shape[1])]
        return transitions(greedy_law(tokenizer, chain.log_probability, symbols), tokenizer, chain, self.length)

    def measure(self):
        """As `transition_errors`."""
        return transition_errors(*self.transitions()[1:])


def learned(encoded):
    """scale -> Run on tokens of a dictionary, encoded so."""

    def run(scale):
        (layers, width, heads), (steps, rows, length), asked = SIZES[scale]
        tokenizer = Dictionary(10, encoded=encoded, bytes_per_token=2.7)
        return Run(
            model=LanguageModel(tokenizer.vocab_size, transformer(layers, width, n_heads=heads)),
            corpus=CHAIN,
            tokenizer=tokenizer,
            optimizer=AdamW(2e-3, Cosine(), weight_decay=1e-3),
            steps=steps,
            batch_size=rows,
            length=length,
            evaluators=(BitsPerByte("test"), AgainstChain(CHAIN), Transitions(CHAIN, asked)),
            evaluate_every=steps // 2,
            checkpoint_every=steps // 2,
        )

    return run


ARMS = (
    Arm("greedy", "Greedy, a transformer", learned("greedy")),
    Arm("merges", "BPE, a transformer", learned("merges")),
    Arm("exact", "Greedy, the exact law", lambda scale: ExactTransitions(CHAIN, length=SIZES[scale][2])),
)

TABLE = Table(
    name="transitions",
    title="Errors of the probability of the next symbol",
    arms=("exact", "greedy", "merges"),
    measured=(
        Column("naive", "As prompted", "mean error", "lower", 4),
        Column("naive_worst", "As prompted", "largest error", "lower", 4),
        Column("sure", "Wrongly sure", "% of texts", "lower", 1),
        Column("corrected", "Corrected", "mean error", "lower", 4),
        Column("corrected_worst", "Corrected", "largest error", "lower", 4),
        Column("nats", "Test", "nats per symbol", "lower", 4),
        Column("optimal", "Entropy rate", "nats per symbol", None, 4),
    ),
    note="The paper shows this comparison as a figure, and its text beyond the abstract was not to be had.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small"), arms=ARMS, tables=(TABLE,), anchor="greedy")


if __name__ == "__main__":
    from lmlab.report.figures import draw_transitions

    draw_transitions(sys.argv[1], *ExactTransitions(CHAIN, length=5).transitions(), "A chain of order 2, behind 10 tokens")
