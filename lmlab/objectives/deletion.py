"""MrT5's loss: cross-entropy, and a pull on the delete gate that a controller sets (arXiv 2410.20771, section 3.2)."""

import dataclasses

import jax.numpy as jnp

from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.models.language_model import forward


@dataclasses.dataclass(frozen=True)
class DeletionRate:
    """Cross-entropy + alpha mean(G), with alpha >= 0 such that the share of deleted positions becomes `target`.

    A PI controller on the error e = target - share of the step before: p <- 0.9 p + 0.1 k_p e, i <- i + k_i e,
    alpha = max(0, p + i). G is negative, so that alpha pulls towards deletion, and the cross-entropy away from it; in a
    model that has yet to learn what to attend to it does not, and then alpha must be free to pull both ways.
    """

    target: float
    k_p: float = 0.5
    k_i: float = 1e-5
    both_ways: bool = False  # alpha may be negative

    def init_state(self, model=None):
        """Both terms of the controller, 0."""
        return {"p": jnp.zeros(()), "i": jnp.zeros(())}

    def alpha(self, state):
        """Weight of the mean gate."""
        alpha = state["p"] + state["i"]
        return alpha if self.both_ways else jnp.maximum(0.0, alpha)

    def next_state(self, state, metrics):
        """The controller behind a step whose metrics, summed over the whole batch, are these."""
        error = self.target - metrics["deleted"] / jnp.maximum(1, metrics["deleted_of"])
        return {"p": 0.9 * state["p"] + 0.1 * self.k_p * error, "i": state["i"] + self.k_i * error}

    def __call__(self, model, params, batch, key, state):
        """Returns (sum of loss, sum of weights, metrics); see `NextToken`."""
        output = forward(model, params, batch)
        found = output.encoded.found
        nats_BL = softmax_cross_entropy(output.logits, batch["targets"])
        weight, nats = jnp.sum(batch["weights"]), jnp.sum(nats_BL * batch["weights"])
        positions, deleted = jnp.sum(found.positions_BS), jnp.sum(found.deleted_BS)
        gate = jnp.sum(jnp.where(found.positions_BS, found.gate_BS, 0.0)) / jnp.maximum(1, positions)
        metrics = {"nats": nats, "targets": weight, "target_bytes": jnp.sum(batch["target_bytes"])}
        metrics |= {"deleted": deleted, "deleted_of": positions}
        return nats + self.alpha(state) * gate * weight, weight, metrics
