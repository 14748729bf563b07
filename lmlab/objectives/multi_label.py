"""Multi-label binary cross-entropy: of every row, whether the next word turns it on (T-FREE, arXiv 2406.19223)."""

import dataclasses
import math

import jax.numpy as jnp

from lmlab.models.language_model import forward


@dataclasses.dataclass(frozen=True)
class NextPattern:
    """Sum over targets and rows of -log p of the row's being as it is in the target's pattern."""

    def __call__(self, model, params, batch, key):
        """Returns (sum of loss, sum of weights, metrics); see `NextToken`. "nats" are those of the patterns."""
        nats = jnp.sum(forward(model, params, batch, key).nats(batch) * batch["weights"])
        weight = jnp.sum(batch["weights"])
        return nats, weight, {"nats": nats, "targets": weight, "target_bytes": jnp.sum(batch["target_bytes"])}

    def at_chance(self, model):
        """The loss of a target where every row is as likely on as off."""
        return model.rows * math.log(2)
