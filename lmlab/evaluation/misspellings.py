"""Hidden words named from a text as it is, and from one whose other words are in part misspelt."""

import dataclasses
import math

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.characters import Characters
from lmlab.data.noisy_words import MisspeltWords, NoisyWords
from lmlab.evaluation.bits_per_byte import bits_per_byte


@dataclasses.dataclass(frozen=True)
class Misspellings:
    """Of excerpts of one split, `max_bytes` in all. In both texts the same words are hidden; of the others the share
    `noise` is misspelt in one. Arms that read the same tokens are asked for the same words in the same context."""

    split: str = "test"
    max_bytes: int = 100_000
    noise: float = 0.3

    def __call__(self, model, params, data):
        """{"clean_accuracy", "misspelt_accuracy": % of the hidden words' tokens that the model holds for likeliest;
        "clean_bpb", "misspelt_bpb": bits per hidden byte; "accuracy_cost", "bits_cost": of the misspellings; and of a
        model that was trained to, "restored": % of the misspelt words' tokens that are not still there}."""
        documents = list(data.baked.documents(self.split))
        share = max(1, self.max_bytes // len(documents))
        stream = stream_of([document[:share] for document in documents], data.baked.tokenizer)
        trained = data.corruption.inner if isinstance(data.corruption, Characters) else data.corruption

        def scored(noise):
            """(accuracy, bits per hidden byte, accuracy of the misspelt)."""
            corruption = MisspeltWords(trained.share, noise)
            if isinstance(data.corruption, Characters):
                corruption = dataclasses.replace(data.corruption, inner=corruption)
            sums = np.zeros(6)

            def see(batch, scores):
                asked_BL, hidden_BL = batch["weights"] > 0, batch["target_bytes"] > 0
                misspelt_BL = asked_BL & ~hidden_BL & (batch["tokens"] != batch["targets"])
                right_BL = scores.best_BL == batch["targets"]
                sums[:2] += (right_BL & hidden_BL).sum(), hidden_BL.sum()
                sums[2:4] += (right_BL & misspelt_BL).sum(), misspelt_BL.sum()
                sums[4:] += scores.nats_BL[hidden_BL].sum(dtype=np.float64), batch["target_bytes"].sum()

            bits_per_byte(model, params, corruption.windows(stream, data.length, data.baked.tokenizer), data, see)
            right, hidden, restored, misspelt, nats, covered = sums
            return 100 * right / hidden, nats / (math.log(2) * covered), 100 * restored / max(1, misspelt)

        (clean, clean_bits, _), (noisy, noisy_bits, restored) = scored(0.0), scored(self.noise)
        result = {
            "clean_accuracy": clean,
            "misspelt_accuracy": noisy,
            "clean_bpb": clean_bits,
            "misspelt_bpb": noisy_bits,
            "accuracy_cost": clean - noisy,
            "bits_cost": noisy_bits - clean_bits,
        }
        return result | ({"restored": restored} if isinstance(trained, NoisyWords) else {})
