"""How equally scripts are cut: bytes per chunk and chunks of each (MAGNET, arXiv 2407.08818)."""

import dataclasses
import math

import jax
import numpy as np

from lmlab.data.batches import evaluation_batches
from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.models.boundaries import SCRIPTS, running_script


@dataclasses.dataclass(frozen=True)
class ScriptParity:
    """Of one split of a byte model's corpus, by the script of each byte (`running_script`).

    Where the corpus is parallel text, equal treatment is equally many chunks in every script. One split of it is not
    parallel: what a script's bytes in all of `parallel` would give at the split's bytes per chunk is compared.
    """

    split: str = "test"
    parallel: tuple[str, ...] = ("train", "validation", "test")

    def __call__(self, model, params, data):
        """For each script that occurs: "<script>_chunk", bytes per chunk, and "<script>_bpb"; "disparity": the most chunks
        of a script in the parallel text over the fewest."""
        chunks, read, nats, covered = np.zeros((4, len(SCRIPTS)))

        def see(batch, scores):
            script_BL = np.asarray(running_script(batch["tokens"], batch["segment_ids"]))
            for s in range(len(SCRIPTS)):
                at_BL = (script_BL == s) & (batch["segment_ids"] > 0)
                read[s] += at_BL.sum()
                chunks[s] += (scores.starts[-1] & at_BL).sum() if scores.starts else at_BL.sum()
                nats[s] += scores.nats_BL[at_BL].sum(dtype=np.float64)
                covered[s] += batch["target_bytes"][at_BL].sum()

        bits_per_byte(model, params, data.windows(self.split), data, see)
        result = {}
        for s, name in enumerate(SCRIPTS):
            if chunks[s] and covered[s]:
                result[f"{name}_chunk"] = read[s] / chunks[s]
                result[f"{name}_bpb"] = nats[s] / (math.log(2) * covered[s])
        size = sum(self._sizes(data.windows(split), data) for split in self.parallel)
        some = (chunks > 0) & (size > 0)
        expected = size[some] * chunks[some] / read[some]
        return result | ({"disparity": float(expected.max() / expected.min())} if some.any() else {})

    @staticmethod
    def _sizes(windows, data):
        """Bytes of each script in some windows."""
        sizes, script_of = np.zeros(len(SCRIPTS)), jax.jit(running_script)
        for batch in evaluation_batches(windows, 128):
            data.check()
            script_BL = np.asarray(script_of(batch["tokens"], batch["segment_ids"]))
            sizes += np.bincount(script_BL[batch["segment_ids"] > 0], minlength=len(SCRIPTS))
        return sizes
