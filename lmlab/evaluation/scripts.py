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
    parallel: what a script's bytes in all of `parallel` would give at the split's bytes per chunk is compared. A script
    counts where it has `least` bytes: fewer are names and abbreviations in the text of another.
    """

    split: str = "test"
    parallel: tuple[str, ...] = ("train", "validation", "test")
    least: int = 4_000

    def __call__(self, model, params, data):
        """For each script of the split: "<script>_bytes", "<script>_chunk", bytes per chunk, and "<script>_bpb"; if these
        are all scripts of the parallel text, "disparity": the most chunks of a script in it over the fewest."""
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
        scored, result = (read >= self.least) & (chunks > 0), {}
        for s, name in enumerate(SCRIPTS):
            if scored[s]:
                result[f"{name}_bytes"] = read[s]
                result[f"{name}_chunk"] = read[s] / chunks[s]
                result[f"{name}_bpb"] = nats[s] / (math.log(2) * covered[s])
        size = sum(self._sizes(data.windows(split), data) for split in self.parallel)
        found = size >= self.least
        if not found.any() or not scored[found].all():
            return result
        expected = size[found] * chunks[found] / read[found]
        return result | {"disparity": float(expected.max() / expected.min())}

    @staticmethod
    def _sizes(windows, data):
        """Bytes of each script in some windows."""
        sizes, script_of = np.zeros(len(SCRIPTS)), jax.jit(running_script)
        for batch in evaluation_batches(windows, 128):
            data.check()
            script_BL = np.asarray(script_of(batch["tokens"], batch["segment_ids"]))
            sizes += np.bincount(script_BL[batch["segment_ids"] > 0], minlength=len(SCRIPTS))
        return sizes
