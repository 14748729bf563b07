"""Does an encoder-decoder read its source at all?"""

import dataclasses
import itertools
import math

import numpy as np

from lmlab.data.batches import evaluation_batches
from lmlab.evaluation.scoring import score


@dataclasses.dataclass(frozen=True)
class OtherSource:
    """Bits per byte written of the first `batches` batches of one split, given the sources of the rows before them. As many
    as with their own: the decoder writes text, and has learned nothing about its encoder."""

    split: str = "test"
    batches: int = 12

    def __call__(self, model, params, data):
        """{"own_source", "other_source": bits per byte written, of the same rows}."""
        nats, written = np.zeros(2), 0
        for batch in itertools.islice(evaluation_batches(data.windows(self.split), data.batch_size), self.batches):
            data.check()
            rows = np.arange(len(batch["inputs"]))
            real = rows[batch["input_segment_ids"].any(axis=1)]  # the last batch ends with empty rows
            rows[real] = np.roll(real, 1)
            other = batch | {name: batch[name][rows] for name in ("inputs", "input_segment_ids")}
            for i, given in enumerate((batch, other)):
                nats[i] += np.sum(score(model, params, data.place(given)).nats_BL, dtype=np.float64)
            written += int(np.sum(batch["target_bytes"], dtype=np.int64))
        own, other = nats / (math.log(2) * written)
        return {"own_source": float(own), "other_source": float(other)}
