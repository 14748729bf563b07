"""What a decoder must know to write a chunk on its own: where the chunker ends it (Toucan, arXiv 2311.08620)."""

import dataclasses

import jax
import jax.numpy as jnp

from lmlab.objectives.next_token import NextToken


@dataclasses.dataclass(frozen=True)
class NextTokenAndEnd(NextToken):
    """Next-token prediction, and the cross-entropy of whether that token ends its chunk: both are one symbol's nats.

    "nats" in the metrics are the tokens' alone. The last target of a row and of a document has no end to be told.
    """

    def auxiliary(self, output, batch):
        """What is added to the loss of every target."""
        start_BL, segment_BL = output.stages[0].start_BL, batch["segment_ids"]
        ends_BL = start_BL[:, 1:]
        told_BL = (segment_BL[:, 1:] == segment_BL[:, :-1]) * batch["weights"][:, :-1]
        logit_BL = jnp.take_along_axis(output.ends[:, :-1], batch["targets"][:, :-1, None], axis=-1)[..., 0]
        nats_BL = -jax.nn.log_sigmoid(jnp.where(ends_BL, logit_BL, -logit_BL))
        share = jnp.sum(nats_BL * told_BL) / jnp.maximum(jnp.sum(batch["weights"]), 1)
        return super().auxiliary(output, batch) + share
