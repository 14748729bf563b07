"""Boundaries that a predictor learns from a teacher (Nawrot et al. 2023, arXiv 2211.09761, section 3.2)."""

import dataclasses

import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.dispatch import shift_right
from lmlab.models.entropy import entropy
from lmlab.objectives.next_token import NextToken


def boundary_nats(p_BL, wanted_BL, valid_BL, released=False):
    """Mean cross-entropy of boundary probabilities over the valid positions.

    `released`: the released code takes the sigmoid of p once more, as if it were a logit.
    """
    p_BL = jax.nn.sigmoid(p_BL) if released else jnp.clip(p_BL, 1e-6, 1 - 1e-6)
    nats_BL = -jnp.where(wanted_BL, jnp.log(p_BL), jnp.log1p(-p_BL))
    return jnp.sum(nats_BL * valid_BL) / jnp.maximum(jnp.sum(valid_BL), 1)


def spikes(x_BL, segment_ids_BL, left=2):
    """Where x is above each of the `left` values before it in its document; what is not there is below all."""
    spike_BL = segment_ids_BL > 0
    for n in range(1, left + 1):
        before_BL = jnp.pad(x_BL, ((0, 0), (n, 0)))[:, : x_BL.shape[1]]
        other_BL = jnp.pad(segment_ids_BL, ((0, 0), (n, 0)))[:, : x_BL.shape[1]] != segment_ids_BL
        spike_BL &= other_BL | (x_BL > before_BL)
    return spike_BL


@dataclasses.dataclass(frozen=True)
class Taught(NextToken):
    """Next-token prediction, and the outermost predictor's cross-entropy to the boundaries that `wanted` gives."""

    released: bool = False  # see `boundary_nats`

    def wanted(self, output, batch):
        """Boundaries that a teacher draws, [B, L] bool."""
        raise NotImplementedError

    def auxiliary(self, output, batch):
        """What is added to the loss of every target."""
        p_BL, valid_BL = output.stages[0].probability_BL, batch["segment_ids"] > 0
        taught = boundary_nats(p_BL, self.wanted(output, batch), valid_BL, self.released)
        return super().auxiliary(output, batch) + taught


@dataclasses.dataclass(frozen=True)
class EntropySpikes(Taught):
    """Boundaries where the model's own next prediction is less certain than the two before."""

    left: int = 2

    def wanted(self, output, batch):
        """Spikes of the entropy of the predictions."""
        return spikes(entropy(jax.lax.stop_gradient(output.logits)), batch["segment_ids"], self.left)


@dataclasses.dataclass(frozen=True)
class Cuts(Taught):
    """Boundaries where a subword tokenizer cuts: batch["cuts"], [B, L] bool, true at the last byte of every piece.

    UserError for batches without.
    """

    def wanted(self, output, batch):
        """The batch's."""
        if "cuts" not in batch:
            raise UserError("The objective Cuts needs batches whose tokenizer tells where pieces end.")
        return batch["cuts"].astype(bool)


@dataclasses.dataclass(frozen=True)
class PieceStarts(Cuts):
    """Boundaries where a subword tokenizer's pieces start: tag B of a tagger, at the first byte of every piece behind
    another, which a tagger that reads from left to right has seen."""

    def wanted(self, output, batch):
        """The byte behind each cut, in the same document."""
        same_BL = batch["segment_ids"] == shift_right(batch["segment_ids"], 0)
        return shift_right(super().wanted(output, batch), False) & same_BL


@dataclasses.dataclass(frozen=True)
class Distilled(PieceStarts):
    """The boundaries' cross-entropy alone: a tagger learns to imitate a tokenizer (Islam et al. 2022, arXiv 2204.10815,
    which distils before it trains on a task). The rest of the model waits, under an optimizer without weight decay; its
    nats are measured all the same."""

    def loss(self, output, batch):
        """(sum of loss, sum of weights, metrics), the metrics those of `NextToken`."""
        _, weight, metrics = super().loss(output, batch)
        return self.auxiliary(output, batch) * weight, weight, metrics

    @staticmethod
    def reaches(path):
        """Whether this loss has a gradient for the parameter at `path`, of whose names one says so."""
        return any(part in path for part in ("embedding", "encoder", "chunker"))
