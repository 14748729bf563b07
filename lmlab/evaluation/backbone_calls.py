"""How often the costly layers run for a written byte."""

import dataclasses

import jax
import numpy as np

from lmlab.decoding.chunkwise import write_chunks
from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.models.toucan import Toucan


@dataclasses.dataclass(frozen=True)
class BackboneCalls:
    """Passes per byte of a sample that a model of bytes writes from BOS.

    A `Toucan` writes chunk by chunk. Any other runs all but its inner network at every byte, and that wherever a chunk
    starts in the text that it was trained on: those are counted on the split.
    """

    split: str = "test"
    bytes: int = 200

    def __call__(self, model, params, data):
        """{"inner_calls", "encoder_calls"} per byte."""
        if isinstance(model, Toucan):
            written = write_chunks(model, params, np.array([data.baked.tokenizer.bos]), self.bytes, jax.random.key(0))
            calls = {"inner_calls": written.inner_calls, "encoder_calls": written.encoder_calls}
            return {name: count / self.bytes for name, count in calls.items()}
        _, source_bytes, starts = bits_per_byte(model, params, data.windows(self.split), data)
        return {"inner_calls": int(starts[-1]) / source_bytes if len(starts) else 1.0, "encoder_calls": 1.0}
