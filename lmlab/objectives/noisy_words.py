"""Hidden words and misspelt ones (Noisy LM; CharBERT, arXiv 2011.01513)."""

import dataclasses

import jax.numpy as jnp

from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.models.language_model import forward


@dataclasses.dataclass(frozen=True)
class NoisyLM:
    """Cross-entropy of every target, of hidden words and of misspelt ones alike. "nats" in the metrics are those of the
    hidden words alone, whose targets cover bytes; the mean of the others is "restored"."""

    def __call__(self, model, params, batch, key):
        """Returns (sum of loss, sum of weights, metrics); see `NextToken`."""
        nats_BL = softmax_cross_entropy(forward(model, params, batch, key).logits, batch["targets"]) * batch["weights"]
        hidden_BL, weight = batch["target_bytes"] > 0, jnp.sum(batch["weights"])
        total, nats, hidden = jnp.sum(nats_BL), jnp.sum(nats_BL * hidden_BL), jnp.sum(batch["weights"] * hidden_BL)
        metrics = {"nats": nats, "targets": hidden, "target_bytes": jnp.sum(batch["target_bytes"])}
        return total, weight, metrics | {"restored": total - nats, "restored_of": weight - hidden}
