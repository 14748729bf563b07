"""What an encoder that deletes positions deletes, and what it costs once they are really taken out."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.data.batches import evaluation_batches
from lmlab.evaluation.scoring import on_host
from lmlab.kernels.dispatch import compiled_for, mesh_of
from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.models.language_model import forward


@partial(jax.jit, static_argnums=(0, 1))
def _forward(model, mesh, params, batch):
    with compiled_for(mesh, whole_rows=True):
        output = forward(model, params, batch)
    nats = jnp.sum(softmax_cross_entropy(output.logits, batch["targets"]) * batch["weights"])
    found = output.encoded.found
    return nats, jnp.sum(found.deleted_BS), jnp.sum(found.positions_BS)


def taken_out(model):
    """The same encoder-decoder with hard deletion, whatever it was trained with; no kept position is lost."""
    return model.clone(encoder=model.encoder.clone(hard=True, capacity=None))


@dataclasses.dataclass(frozen=True)
class HardDeletion:
    """Bits per byte of one split with hard deletion, as `taken_out`."""

    split: str = "test"

    def __call__(self, model, params, data):
        """{"deleted": share of the source's positions, "hard_bpb", "hard_mflops": forward MFLOPs per token that remain}."""
        hard = taken_out(model)
        sums, source_bytes = np.zeros(3), 0
        for batch in evaluation_batches(data.windows(self.split), data.batch_size):
            data.check()
            sums += np.array([float(x) for x in _forward(hard, mesh_of(params), params, data.place(batch))])
            source_bytes += int(np.sum(batch["target_bytes"], dtype=np.int64))
        nats, deleted, positions = sums
        share = deleted / positions
        flops = data.corruption.flops(hard, data.length, (1 / max(1e-9, 1 - share),))
        return {
            "deleted": share,
            "hard_bpb": nats / (math.log(2) * source_bytes),
            "hard_mflops": sum(flops.values()) / 1e6,
        }


@partial(jax.jit, static_argnums=(0, 1))
def _deleted(model, mesh, params, batch):
    with compiled_for(mesh, whole_rows=True):
        return forward(model, params, batch).encoded.found.deleted_BS


@dataclasses.dataclass(frozen=True)
class Aim:
    """Where a task says which positions it can spare: are they those that are deleted?"""

    split: str = "test"

    def __call__(self, model, params, data):
        """{"spared": share of the positions that the task can spare, the ends of documents counted; "aimed": % of the deleted
        ones that are among those that it may; 0 where none is deleted}."""
        positions = spared = deleted = aimed = 0
        for batch in evaluation_batches(data.windows(self.split), data.batch_size):
            data.check()
            deleted_BS = on_host(_deleted(model, mesh_of(params), params, data.place(batch)))
            for ids, numbers, gone in zip(batch["inputs"], batch["input_segment_ids"], deleted_BS, strict=True):
                for number in range(1, numbers.max(initial=0) + 1):
                    at = np.flatnonzero(numbers == number)
                    may, count = data.corruption.spared(ids[at[:-1]])  # the last is its end
                    positions, spared = positions + len(at), spared + count
                    deleted, aimed = deleted + gone[at].sum(), aimed + gone[at[:-1]][may].sum()
        return {"spared": spared / positions, "aimed": 100 * float(aimed) / max(1, int(deleted))}
