"""Hidden words for an encoder of chunks, hidden vectors for the transformer above (NextLevelBERT, arXiv 2402.17682)."""

import dataclasses

import jax.numpy as jnp

from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.models.language_model import forward


def smooth_l1(x):
    """x^2 / 2 where |x| < 1, else |x| - 1/2."""
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * x * x, size - 0.5)


@dataclasses.dataclass(frozen=True)
class MaskedVectors:
    """Cross-entropy of the hidden words' tokens, and the distance of the hidden vectors to the predicted ones, a mean
    over vectors and channels, once per target. The first trains the encoder of chunks, the second what reads
    them."""

    squared: bool = False  # x^2 / 2 everywhere in place of smooth L1

    def __call__(self, model, params, batch, key):
        """Returns (sum of loss, sum of weights, metrics); see `NextToken`. The targets of a batch are the whole text, whose
        chunks have the vectors. "vectors" in the metrics is the distance."""
        clean = batch["targets"], batch["segment_ids"]
        found = model.apply(params, *clean, method="hidden_vectors", rngs={"noise": key})
        output = forward(model, params, batch)
        weight = jnp.sum(batch["weights"])
        nats = jnp.sum(softmax_cross_entropy(output.logits, batch["targets"]) * batch["weights"])
        x_BCD = found.predicted_BCD - found.vectors_BCD
        distance_BC = jnp.mean(0.5 * x_BCD * x_BCD if self.squared else smooth_l1(x_BCD), axis=-1)
        distance, hidden = jnp.sum(distance_BC * found.hidden_BC), jnp.sum(found.hidden_BC).astype(jnp.float32)
        metrics = {"nats": nats, "targets": weight, "target_bytes": jnp.sum(batch["target_bytes"])}
        loss = nats + distance / jnp.maximum(1, hidden) * weight
        return loss, weight, metrics | {"vectors": distance, "vectors_of": hidden}
