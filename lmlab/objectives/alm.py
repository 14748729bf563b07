"""Approximate likelihood matching: a student learns how likely a teacher of another tokenizer finds each chunk of text
(Minixhofer et al. 2025, "Cross-Tokenizer Distillation via Approximate Likelihood Matching").

Both cut the same bytes; between two places where both cut lies a chunk (lmlab/text/pairs.py). Of each chunk the two
models give a probability, the product over its tokens, and the loss compares these.
"""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.models.language_model import abstract_init, forward, init
from lmlab.objectives.transferred import Transferred
from lmlab.text.pairs import begins_word

EPSILON = 1e-6  # log-probabilities are kept this far below 0


class Chunks(NamedTuple):
    """What one model says of the chunks of a row."""

    logp_BC: jax.Array  # log-probability of a chunk's tokens, given all before
    count_BC: jax.Array  # how many tokens; 0: there is no such chunk
    space_BC: jax.Array  # log-probability that what follows the chunk begins a word


def log1mexp(x):
    """log(1 - exp(x)) for x < 0, of which neither form alone is exact near both ends."""
    near = x > -jnp.log(2.0)
    close, far = jnp.where(near, x, -1.0), jnp.where(near, -1.0, x)  # neither branch's gradient sees the other's values
    return jnp.where(near, jnp.log(-jnp.expm1(close)), jnp.log1p(-jnp.exp(far)))


def _binary_ce(t, s):
    return -(jnp.exp(t) * s - jnp.expm1(t) * log1mexp(s))


def _binary_kl(t, s):
    return jnp.exp(t) * (t - s) - jnp.expm1(t) * (log1mexp(t) - log1mexp(s))


# Of the log-probabilities of teacher and student: those that are tempered are divided by the temperature first.
TEMPERED = {
    "binary_ce": _binary_ce,
    "binary_kl": _binary_kl,
    "reverse_binary_kl": lambda t, s: _binary_kl(s, t),
    "abs_exp": lambda t, s: jnp.abs(jnp.exp(t) - jnp.exp(s)),
    "joschu_k2": lambda t, s: (t - s) ** 2 / 2,
    "joschu_k3": lambda t, s: jnp.expm1(t - s) - (t - s),
}
PLAIN = {
    "abs": lambda t, s: jnp.abs(t - s),
    "binary_kl_temp_limit": lambda t, s: (t - s) + t * (jnp.log(-s) - jnp.log(-t)),
}
CLAMPED = ("binary_ce", "binary_kl", "reverse_binary_kl", "abs_exp", "binary_kl_temp_limit")


def difference(name, t, s, temperature):
    """How far log-probabilities `s` of a student are from those of a teacher `t`, elementwise.

    Of p = exp(t / temperature) and q = exp(s / temperature), seen as chances of yes against no: "binary_ce" their
    cross-entropy, "binary_kl" KL(p, q), "reverse_binary_kl" KL(q, p), "abs_exp" |p - q|; "joschu_k2" and "joschu_k3"
    the estimators of a KL divergence log(p/q)^2 / 2 and p/q - 1 - log(p/q); and, which know no temperature, "abs"
    |t - s| and "binary_kl_temp_limit", temperature x KL(p, q) as the temperature grows.
    """
    if name in CLAMPED and name in TEMPERED:
        t, s = t / temperature - EPSILON, s / temperature - EPSILON
    elif name in CLAMPED:
        t, s = t - EPSILON, s - EPSILON
    elif name in TEMPERED:
        t, s = t / temperature, s / temperature
    return (TEMPERED | PLAIN)[name](t, s)


def chunks(logits_BLV, targets_BL, chunk_BL, n_chunks, begins_word_V=None, segment_ids_BL=None):
    """`Chunks` of a row's targets, chunk_BL telling which each belongs to (-1: to none).

    `begins_word_V`: ids whose bytes begin a word; None: nothing is asked of what follows. The logits behind a chunk are
    those of the position that reads its last token; where the row or the document ends there are none, and space_BC is
    0, a probability of 1.
    """
    logits_BLV = logits_BLV.astype(jnp.float32)
    norm_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    logp_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0] - norm_BL
    B, L = chunk_BL.shape
    row_B1, at_BL = jnp.arange(B)[:, None], jnp.where(chunk_BL < 0, n_chunks, chunk_BL)
    total = lambda x_BL: jnp.zeros((B, n_chunks), x_BL.dtype).at[row_B1, at_BL].add(x_BL, mode="drop")  # noqa: E731
    count_BC = total(jnp.ones((B, L), jnp.int32))
    logp_BC = jnp.minimum(total(logp_BL), 0.0)
    if begins_word_V is None:
        return Chunks(logp_BC, count_BC, jnp.zeros_like(logp_BC))
    space_BL = jax.nn.logsumexp(jnp.where(begins_word_V, logits_BLV, -1e30), axis=-1) - norm_BL
    last_BC = jnp.full((B, n_chunks), -1).at[row_B1, at_BL].max(jnp.arange(L)[None], mode="drop")
    behind_BC = jnp.clip(last_BC + 1, 0, L - 1)
    told_BC = (last_BC >= 0) & (last_BC + 1 < L)
    if segment_ids_BL is not None:
        same = [jnp.take_along_axis(segment_ids_BL, at, axis=1) for at in (jnp.maximum(last_BC, 0), behind_BC)]
        told_BC &= same[0] == same[1]
    space_BC = jnp.minimum(jnp.take_along_axis(space_BL, behind_BC, axis=1), 0.0)
    return Chunks(logp_BC, count_BC, jnp.where(told_BC, space_BC, 0.0))


def merged(student, teacher, threshold):
    """Both models' chunks, each joined to the next until the teacher gives more than `threshold` to a word that begins
    behind it: where it does not, its tokenizer might have written the chunk's end and what follows as one token, so
    that the two models' probabilities are not of the same event."""
    closes_BC = jnp.exp(teacher.space_BC) > threshold
    group_BC = jnp.cumsum(closes_BC, axis=1) - closes_BC
    B, C = group_BC.shape
    row_B1, there_BC = jnp.arange(B)[:, None], teacher.count_BC > 0
    at_BC = jnp.where(there_BC, group_BC, C)
    last_BC = jnp.full((B, C), -1).at[row_B1, at_BC].max(jnp.arange(C)[None], mode="drop")

    def join(x):
        total = lambda v_BC: jnp.zeros_like(v_BC).at[row_B1, at_BC].add(v_BC, mode="drop")  # noqa: E731
        space_BC = jnp.take_along_axis(x.space_BC, jnp.maximum(last_BC, 0), axis=1)
        return Chunks(total(x.logp_BC), total(x.count_BC), jnp.where(last_BC >= 0, space_BC, 0.0))

    return join(student), join(teacher)


def matched(student, teacher, name="binary_ce", temperature=100.0, append_space=False, sizes=(1,)):
    """(difference of every chunk, tokens of the teacher in it), [B, N] each; 0 where there is none.

    `append_space`: a chunk's event is that its text is followed by the beginning of a word. `sizes`: how many chunks in
    a row are compared as one, all side by side; each divides the number of chunks. (The original divides its mean over
    all of them once more by how many sizes there are.)
    """
    there_BC = teacher.count_BC > 0
    found, counts = [], []
    for size in sizes:
        B, C = there_BC.shape
        grouped = lambda x: x.reshape(B, C // size, size)  # noqa: B023, E731
        there = grouped(there_BC)
        last = there & (jnp.cumsum(there[..., ::-1], axis=-1)[..., ::-1] == 1)

        def logp(x):
            total = jnp.sum(jnp.where(there, grouped(x.logp_BC), 0.0), axis=-1)  # noqa: B023
            space = jnp.sum(jnp.where(last, grouped(x.space_BC), 0.0), axis=-1)  # noqa: B023
            return total + space if append_space else total

        count = jnp.sum(grouped(teacher.count_BC), axis=-1)
        t, s = (jnp.where(count > 0, logp(x), -1.0) for x in (teacher, student))
        found.append(jnp.where(count > 0, difference(name, t, s, temperature), 0.0))
        counts.append(count)
    return jnp.concatenate(found, axis=1), jnp.concatenate(counts, axis=1)


def mean(found_BN, count_BN, per="chunk"):
    """(sum of differences, sum of weights): of "chunk"s, each alike, or of "token"s, each chunk by its tokens."""
    weight_BN = (count_BN if per == "token" else count_BN > 0).astype(jnp.float32)
    return jnp.sum(found_BN * weight_BN), jnp.sum(weight_BN)


@dataclasses.dataclass(frozen=True)
class ALM(Transferred):
    """Approximate likelihood matching, and `next_token` times next-token prediction, of batches that `Beside` gives.

    The difference, "temperature" and the sizes: see `matched`; `threshold`: see `merged`, 0 leaves chunks as they are;
    `per`: see `mean`. With `next_token` the two are weighed against each other per target, and the mean over chunks is of a
    microbatch; without, the chunks are what is summed. The teacher's parameters are what the objective remembers from step to step, and do not change.
    """

    difference: str = "binary_ce"
    temperature: float = 100.0
    append_space: bool = True
    threshold: float = 0.1
    sizes: tuple[int, ...] = (1,)
    per: str = "chunk"
    weight: float = 1.0
    next_token: float = 0.0

    pair = True

    def __post_init__(self):
        names = sorted(TEMPERED | PLAIN)
        if self.difference not in names or self.per not in ("chunk", "token"):
            given = f"{self.difference!r}, {self.per!r}"
            raise UserError(f"ALM compares by one of {', '.join(names)}, per chunk or token: not {given}.")
        if self.temperature <= 0 or not self.sizes or min(self.sizes) < 1:
            raise UserError("ALM needs a temperature above 0 and sizes of at least 1.")

    def init_state(self, model):
        """A fresh teacher, and which ids begin a word for either: what `begun` puts in their place."""
        words = {"student": model.vocab_size, "teacher": self.teacher.model.vocab_size}
        teacher = init(self.teacher.model, jax.random.key(0))
        return {"teacher": teacher, "words": {k: jnp.zeros(n) for k, n in words.items()}}

    def abstract_state(self, model):
        """Its shapes with their logical axes."""
        words = jax.eval_shape(lambda: self.init_state(model)["words"])
        boxed = jax.tree.map(lambda w: nn.LogicallyPartitioned(w, (None,)), words)
        return {"teacher": abstract_init(self.teacher.model), "words": boxed}

    def begun(self, model, teacher, tokenizer):
        """The state before the first step, as NumPy arrays."""
        sizes = {"student": model.vocab_size, "teacher": self.teacher.model.vocab_size}
        words = {k: begins_word(getattr(tokenizer, k), n).astype("float32") for k, n in sizes.items()}
        return {"teacher": teacher, "words": words}

    def next_state(self, state, metrics):
        """The same."""
        return state

    def __call__(self, model, params, batch, key, state):
        """Returns (sum of loss, sum of weights, metrics); see `NextToken`. UserError for batches without chunks."""
        if "chunks" not in batch:
            raise UserError("ALM needs batches that hold the text in the teacher's tokens: a tokenizer Beside(..).")
        output = forward(model, params, batch, key)
        _, weight, metrics = self.loss(output, batch)
        found, count = self.compare(output.logits, self.teacher_logits(state, batch), batch, state["words"])
        total, chunks_ = mean(found, count, self.per)
        alm = total / jnp.maximum(chunks_, 1)
        told, compared = jnp.sum(batch["chunks"] >= 0), jnp.sum(count > 0)
        metrics |= {"alm": total, "alm_of": chunks_, "in_chunks": told, "in_chunks_of": weight}
        metrics |= {"teacher_tokens_per_chunk": jnp.sum(count), "teacher_tokens_per_chunk_of": compared}
        if not self.next_token:
            return self.weight * total + self.auxiliary(output, batch) * chunks_, chunks_, metrics
        own = self.weight * alm + self.auxiliary(output, batch)
        return own * weight + self.next_token * metrics["nats"], weight, metrics

    def teacher_logits(self, state, batch):
        """[B, M, V] of the frozen teacher."""
        frozen = jax.lax.stop_gradient(state["teacher"])
        return self.teacher.model.apply(frozen, batch["teacher_tokens"], batch["teacher_segment_ids"]).logits

    def compare(self, student_BLV, teacher_BMV, batch, words):
        """`matched` of the two models' logits."""
        L, M = student_BLV.shape[1], teacher_BMV.shape[1]
        n = -(-min(L, M) // math.lcm(*self.sizes)) * math.lcm(*self.sizes)
        asked = {k: v > 0 if self.append_space or self.threshold else None for k, v in words.items()}
        theirs = (batch["teacher_targets"], batch["teacher_chunks"], n, asked["teacher"], batch["teacher_segment_ids"])
        student = chunks(student_BLV, batch["targets"], batch["chunks"], n, asked["student"], batch["segment_ids"])
        teacher = chunks(teacher_BMV, *theirs)
        told_BC = (student.space_BC < 0) & (teacher.space_BC < 0)  # to both: of the end of a row only one may see more
        student, teacher = (c._replace(space_BC=jnp.where(told_BC, c.space_BC, 0.0)) for c in (student, teacher))
        if self.threshold:
            student, teacher = merged(student, teacher, self.threshold)
        return matched(student, teacher, self.difference, self.temperature, self.append_space, self.sizes)
