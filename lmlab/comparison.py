"""What the arms of one table share, so that only what they differ in is left to say: bytes, batch, recipe, evaluation."""

import dataclasses
from typing import Any

from lmlab.evaluation.bits_per_byte import BitsPerByte, Robustness
from lmlab.objectives.next_token import NextToken
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.optimizers import WSD, AdamW
from lmlab.training.run import Run


@dataclasses.dataclass(frozen=True)
class Setup:
    """A scale of a table. Batches are matched in bytes: a row of `tokens` subwords covers as much as one of `length`
    bytes."""

    corpus: Any
    train_bytes: int
    batch_bytes: int  # bytes per step
    length: int  # bytes per row
    tokens: int  # subwords per row
    learning_rate: float
    robustness_bytes: int
    precision: str = "float32"

    def run(self, model, multipliers=(1.0,), tokenizer=ByteTokenizer(), objective=NextToken()):
        """The Run of one arm: AdamW under WSD (H-Net, arXiv 2507.07955, section 3), bits per byte and robustness."""
        steps = max(40, self.train_bytes // self.batch_bytes // 40 * 40)  # quarters are multiples of log_every
        return Run(
            model=model,
            corpus=self.corpus,
            tokenizer=tokenizer,
            optimizer=AdamW(self.learning_rate, WSD(0.1, 0.2), stage_multipliers=multipliers),
            steps=steps,
            objective=objective,
            batch_size=self.batch_bytes // self.length,
            length=self.tokens if isinstance(tokenizer, BPE) else self.length,
            evaluators=(BitsPerByte("test"), Robustness("test", self.robustness_bytes)),
            evaluate_every=steps // 4,
            checkpoint_every=steps // 4,
            precision=self.precision,
        )
