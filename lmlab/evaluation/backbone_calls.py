"""How often the costly layers run for a byte."""

import dataclasses

import jax
import numpy as np

from lmlab.decoding.chunkwise import write_chunks
from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.models.toucan import Toucan


@dataclasses.dataclass(frozen=True)
class BackboneCalls:
    """What runs per byte of one split when it is written, for models with one stage or none.

    The inner network runs wherever a chunk starts. Encoder and decoder read every byte once, in every model; but a byte
    of a `Toucan` that does not begin a chunk need not wait for the encoder, which reads a chunk when it is written.
    `bytes` are sampled from a `Toucan` as well: how often its inner network runs where it ends chunks itself.
    """

    split: str = "test"
    bytes: int = 200

    def __call__(self, model, params, data):
        """{"inner_calls": per byte, "encoder_positions": per byte, "encoder_waits": share of the bytes that are written
        only once the encoder has read those before}, and of a `Toucan` "sampled_inner_calls"."""
        _, source_bytes, starts = bits_per_byte(model, params, data.windows(self.split), data)
        inner = int(starts[-1]) / source_bytes if len(starts) else 1.0
        found = {"inner_calls": inner, "encoder_positions": 1.0, "encoder_waits": 1.0}
        if isinstance(model, Toucan):
            written = write_chunks(model, params, np.array([data.baked.tokenizer.bos]), self.bytes, jax.random.key(0))
            found |= {"encoder_waits": inner, "sampled_inner_calls": written.inner_calls / self.bytes}
        return found
