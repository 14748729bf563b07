"""MrT5's loss: cross-entropy, a pull on the delete gate (arXiv 2410.20771, section 3.2), a constant one, or one that a
controller sets, and a price of large scores."""

import dataclasses

import jax.numpy as jnp

from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.models.language_model import forward
from lmlab.models.t5 import SCORES


def mean_excess(model, scores, batch):
    """Of the attention that gates weaken, the encoder's behind the gate and the decoder's to it: the mean of `t5.excess`
    over the pairs of positions that hold a token, then over layers."""
    each = []
    for part, name, layers, segments in (
        ("encoder", "attention", range(model.encoder.before, model.encoder.layers), "input_segment_ids"),
        ("decoder", "cross", range(model.decoder.layers), "segment_ids"),
    ):
        for i in layers:
            over_BL, seen_BL = scores[part][f"blocks_{i}"][name]["excess"][0]
            over, seen = (jnp.sum(jnp.where(batch[segments] > 0, x, 0)) for x in (over_BL, seen_BL))
            each.append(over / jnp.maximum(1, seen))
    return sum(each) / len(each)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deletion:
    """Cross-entropy + alpha mean(G) + `excess` mean(max(score - 5, 0)). G is negative, so that alpha pulls towards deletion,
    and the cross-entropy away from it. Scores that are large enough, relative biases included, get past a gate, and so what
    is deleted softly would still be seen: their price keeps soft and hard deletion alike (v3 of the paper has a weight of
    5, the released commands one of 0.5)."""

    excess: float = 0.0

    def init_state(self, model=None):
        """What alpha depends on, at step 0."""
        raise NotImplementedError

    def alpha(self, state):
        """Weight of the mean gate."""
        raise NotImplementedError

    def next_state(self, state, metrics):
        """The state behind a step whose metrics, summed over the whole batch, are these."""
        raise NotImplementedError

    def __call__(self, model, params, batch, key, state):
        """Returns (sum of loss, sum of weights, metrics); see `NextToken`."""
        if self.excess:
            output, written = forward(model, params, batch, mutable=[SCORES])
            price = self.excess * mean_excess(model, written[SCORES], batch)
        else:
            output, price = forward(model, params, batch), 0.0
        found = output.encoded.found
        nats_BL = softmax_cross_entropy(output.logits, batch["targets"])
        weight, nats = jnp.sum(batch["weights"]), jnp.sum(nats_BL * batch["weights"])
        positions, deleted = jnp.sum(found.positions_BS), jnp.sum(found.deleted_BS)
        gate = jnp.sum(jnp.where(found.positions_BS, found.gate_BS, 0.0)) / jnp.maximum(1, positions)
        metrics = {"nats": nats, "targets": weight, "target_bytes": jnp.sum(batch["target_bytes"])}
        metrics |= {"deleted": deleted, "deleted_of": positions}
        return nats + (self.alpha(state) * gate + price) * weight, weight, metrics


@dataclasses.dataclass(frozen=True)
class DeletionRate(Deletion):
    """With alpha >= 0 such that the share of deleted positions becomes `target`.

    A PI controller on the error e = target - share of the step before: p <- 0.9 p + 0.1 k_p e, i <- i + k_i e,
    alpha = max(0, p + i). It takes a model whose cross-entropy pulls the gate open, one that has learned to attend to what
    it reads: in another the share swings between nothing and everything.
    """

    target: float
    k_p: float = 0.5
    k_i: float = 1e-5

    def init_state(self, model=None):
        """Both terms of the controller, 0."""
        return {"p": jnp.zeros(()), "i": jnp.zeros(())}

    def alpha(self, state):
        """As `Deletion`."""
        return jnp.maximum(0.0, state["p"] + state["i"])

    def next_state(self, state, metrics):
        """As `Deletion`."""
        error = self.target - metrics["deleted"] / jnp.maximum(1, metrics["deleted_of"])
        return {"p": 0.9 * state["p"] + 0.1 * self.k_p * error, "i": state["i"] + self.k_i * error}


@dataclasses.dataclass(frozen=True)
class DeletionPull(Deletion):
    """With one alpha, from step `begin` on (counted from 0)."""

    weight: float
    begin: int = 0

    def init_state(self, model=None):
        """The step."""
        return {"step": jnp.zeros((), jnp.int32)}

    def alpha(self, state):
        """As `Deletion`."""
        return jnp.where(state["step"] >= self.begin, self.weight, 0.0)

    def next_state(self, state, metrics):
        """As `Deletion`."""
        return {"step": state["step"] + 1}
