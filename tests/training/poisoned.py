"""An objective that spoils a training."""

import dataclasses

import jax.numpy as jnp

from lmlab.objectives.next_token import NextToken


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """`NextToken`, times `factor` on the batches whose tokens have one of these sums."""

    sums: tuple[int, ...]
    factor: float

    def __call__(self, model, params, batch, key):
        loss, weight, metrics = NextToken()(model, params, batch, key)
        hit = jnp.any(jnp.sum(batch["tokens"]) == jnp.array(self.sums))
        return loss * jnp.where(hit, self.factor, 1.0), weight, metrics
