"""Where an encoder that segments its source puts the frontiers, against white space."""

import dataclasses
from functools import partial

import jax
import numpy as np

from lmlab.data.batches import evaluation_batches
from lmlab.evaluation.chunks import ChunkStatistics
from lmlab.evaluation.scoring import on_host
from lmlab.kernels.dispatch import compiled_for, mesh_of
from lmlab.models.language_model import forward


@partial(jax.jit, static_argnums=(0, 1))
def _forward(model, mesh, params, batch):
    with compiled_for(mesh, whole_rows=True):
        return forward(model, params, batch).encoded.found


@dataclasses.dataclass(frozen=True)
class FrontierF1:
    """Agreement of the frontiers (p > 1/2) of one split's sources with white space, as the sources are read: with
    sentinels in the place of spans."""

    split: str = "test"

    def __call__(self, model, params, data):
        """{"frontier_precision", "frontier_recall", "frontier_f1", "bytes_per_block", "lost": share of the bytes in blocks
        there was no room for}.

        A frontier is right on the first spacelike byte behind a word, or on the byte behind that; see `ChunkStatistics`.
        """
        statistics, sums = ChunkStatistics(), np.zeros(3)
        for batch in evaluation_batches(data.windows(self.split), data.batch_size):
            data.check()
            found = _forward(model, mesh_of(params), params, data.place(batch))
            p_BS, read_BS = on_host(found.probability_BS), batch["input_segment_ids"] > 0
            first_BS = np.pad(read_BS[:, :1], ((0, 0), (0, p_BS.shape[1] - 1)))
            statistics.add(
                {"tokens": batch["inputs"], "segment_ids": batch["input_segment_ids"]}, [(p_BS > 0.5) | first_BS]
            )
            sums += (float(found.lost), read_BS.sum(), p_BS.sum() + first_BS.sum())
        values, (lost, read, blocks) = statistics.values(), sums
        precision, recall = values["stage0/at_words"], values["stage0/words_found"]
        return {
            "frontier_precision": precision,
            "frontier_recall": recall,
            "frontier_f1": 2 * precision * recall / max(1e-9, precision + recall),
            "bytes_per_block": read / max(1.0, blocks),
            "lost": lost / read,
        }
