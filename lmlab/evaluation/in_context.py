"""Symbols that mean only what is said of them in the same text: for models of bytes (lexinvariant models, Huang et al. 2023,
arXiv 2305.16349, section 3)."""

import dataclasses
import string

import numpy as np

from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.evaluation.rows import Rows

SYMBOLS = np.frombuffer(string.ascii_letters.encode(), np.uint8)


def look_up(rng, pairs):
    """(prompt, answer), bytes: as many pairs of letters, all distinct, a line each, "k:v"; then one of these k again, and the
    v behind it."""
    letters = rng.permutation(SYMBOLS)[: 2 * pairs].reshape(pairs, 2)
    asked = letters[rng.integers(pairs)]
    lines = [bytes([k]) + b":" + bytes([v]) for k, v in (*letters, asked)]
    return b"\n".join(lines)[:-1], lines[-1][-1:]


def permuted(rng, shots, size):
    """(prompt, answer): `shots` lines "abc:cab" of `size` distinct letters that are put into another order, the same in every
    line and not the one they had; then further letters, and their new order."""
    order = np.arange(size)
    while (order == np.arange(size)).all():
        order = rng.permutation(size)
    rows = [rng.permutation(SYMBOLS)[:size] for _ in range(shots + 1)]
    lines = [row.tobytes() + b":" + row[order].tobytes() for row in rows]
    return b"\n".join(lines)[:-size], lines[-1][-size:]


@dataclasses.dataclass(frozen=True)
class InContext:
    """Share of the questions, each a text of its own, whose answer greedy decoding would write, behind `pairs` pairs or
    `shots` permutations of three letters."""

    count: int = 500  # questions of a kind
    pairs: int = 12
    shots: int = 8
    seed: int = 0

    def __post_init__(self):
        if self.count < 1 or self.shots < 1 or not 1 <= self.pairs <= len(SYMBOLS) // 2:
            raise UserError(
                f"Questions need a count and shots of at least 1, and 1 to {len(SYMBOLS) // 2} pairs of distinct letters."
            )

    def check(self, run):
        """UserError for a run that does not read plain bytes."""
        if run.tokenizer.vocab_size != 256:
            raise UserError("Questions about letters are for models that read bytes.")

    def __call__(self, model, params, data):
        """{"look_up", "permuted": % right, all letters of an answer}."""
        tokenizer, rng = data.baked.tokenizer, np.random.default_rng(self.seed)
        values = {}
        for name, ask in (("look_up", lambda: look_up(rng, self.pairs)), ("permuted", lambda: permuted(rng, self.shots, 3))):
            questions, best = [ask() for _ in range(self.count)], []
            length = max(len(prompt + answer) for prompt, answer in questions) + 1
            rows = Rows([prompt + answer for prompt, answer in questions], length, tokenizer)
            bits_per_byte(model, params, rows, data, lambda batch, scores, best=best: best.append(scores.best_BL))
            answers = zip(np.concatenate(best), questions, strict=False)
            right = [bytes(b[len(p) : len(p) + len(a)].astype(np.uint8)) == a for b, (p, a) in answers]
            values[name] = 100 * float(np.mean(right))
        return values
