"""How equally scripts are cut: bytes per chunk and chunks of each (MAGNET, arXiv 2407.08818)."""

import dataclasses
import math

import numpy as np

from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.models.boundaries import SCRIPTS, running_script


@dataclasses.dataclass(frozen=True)
class ScriptParity:
    """Of one split of a byte model's corpus, by the script of each byte (`running_script`).

    Where the split is parallel text, equal treatment is equally many chunks in every script.
    """

    split: str = "test"

    def __call__(self, model, params, data):
        """For each script that occurs: "<script>_chunk", bytes per chunk, and "<script>_bpb"; "disparity": the most chunks
        of a script over the fewest."""
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
        some = chunks[chunks > 0]
        return result | {"disparity": float(some.max() / some.min())}
