"""Next-token prediction: the cross-entropy of every target, plus what the chunkers ask for."""

import dataclasses

import jax.numpy as jnp

from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.models.language_model import forward


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Sum over targets of -log p(target), plus each chunker's weighted auxiliary loss once per target."""

    def __call__(self, model, params, batch, key):
        """Returns (sum of loss, sum of weights, metrics); metrics are sums, so they add up over batches.

        `batch`: tokens, targets, segment_ids [B, L] int32, weights [B, L] float32, target_bytes [B, L] int32, and what
        an encoder reads: see `forward`.
        """
        return self.loss(forward(model, params, batch, key), batch)

    def loss(self, output, batch):
        """What a call returns, of a model's output."""
        nats_BL = softmax_cross_entropy(output.logits, batch["targets"])
        weight = jnp.sum(batch["weights"])
        nats = jnp.sum(nats_BL * batch["weights"])
        metrics = {"nats": nats, "targets": weight, "target_bytes": jnp.sum(batch["target_bytes"])}
        for s, stage in enumerate(output.stages):
            metrics |= {
                f"stage{s}/starts": stage.starts,
                f"stage{s}/positions": stage.positions,
                f"stage{s}/probability": jnp.sum(stage.probability_BL),
                f"stage{s}/overflow": stage.overflow,
                f"stage{s}/slots": stage.slots,
            }
        return nats + self.auxiliary(output, batch) * weight, weight, metrics

    def auxiliary(self, output, batch):
        """What is added to the loss of every target: what the chunkers ask for."""
        return sum((stage.auxiliary for stage in output.stages), jnp.zeros(()))
