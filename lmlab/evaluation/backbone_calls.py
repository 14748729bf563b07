"""How often the costly layers run for a byte that is written, and how long that takes."""

import dataclasses
import statistics
import time

import jax
import numpy as np

from lmlab.decoding.chunkwise import write_chunks
from lmlab.decoding.generate import generate
from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.models.toucan import Toucan


@dataclasses.dataclass(frozen=True)
class BackboneCalls:
    """What runs per byte of one split when it is written, for models with one stage or none.

    The inner network runs wherever a chunk starts. Encoder and decoder read every byte once, in every model; but a byte
    of a `Toucan` that does not begin a chunk need not wait for the encoder, which reads a chunk when it is written.

    And of `bytes` that the model samples, one row from nothing but BOS: the time, median of `rounds` after one that
    compiles; of a `Toucan`, how often its inner network and its encoder run where it ends chunks itself.
    """

    split: str = "test"
    bytes: int = 500
    rounds: int = 15

    def __call__(self, model, params, data):
        """{"inner_calls": per byte, "encoder_positions": per byte, "encoder_waits": share of the bytes that are written
        only once the encoder has read those before, "writing_seconds": per 1,000 bytes}, and of a `Toucan`
        "sampled_inner_calls" and "sampled_encoder_passes", per byte."""
        _, source_bytes, starts = bits_per_byte(model, params, data.windows(self.split), data)
        inner = int(starts[-1]) / source_bytes if len(starts) else 1.0
        found = {"inner_calls": inner, "encoder_positions": 1.0, "encoder_waits": 1.0}
        prompt, chunkwise = np.array([data.baked.tokenizer.bos]), isinstance(model, Toucan)
        seconds, written = [], []
        for i in range(self.rounds + 1):
            data.check()
            began = time.perf_counter()
            if chunkwise:
                written.append(write_chunks(model, params, prompt, self.bytes, jax.random.key(i)))
            else:
                generate(model, params, [prompt], self.bytes, -1, jax.random.key(i))
            seconds.append(time.perf_counter() - began)
        found["writing_seconds"] = 1000 * statistics.median(seconds[1:]) / self.bytes
        if chunkwise:
            total = len(written) * self.bytes
            found |= {
                "encoder_waits": inner,
                "sampled_inner_calls": sum(w.inner_calls for w in written) / total,
                "sampled_encoder_passes": sum(w.encoder_passes for w in written) / total,
            }
        return found
