"""Does a tagger cut where its teacher does?"""

import dataclasses

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.evaluation.bits_per_byte import bits_per_byte

BLANK = tuple(b" \t\n\r")


@dataclasses.dataclass(frozen=True)
class Tagging:
    """Of one split, the outermost chunks' starts against the first bytes of the pieces of the run's tokenizer, which must
    tell them (`lmlab.text.cuts`); first positions of documents, which start a chunk anyway, are left out.

    Starts inside of words are counted on their own as well: a piece starts at every space.
    """

    split: str = "test"
    max_bytes: int = 100_000

    def __call__(self, model, params, data):
        """{"f1", "precision", "recall" of the starts, "f1_inside" of words: in %; of a mixture "<text>/f1" as
        well}. Nothing of a tokenizer without cuts."""
        if not hasattr(data.baked.tokenizer, "annotate"):
            return {}
        texts = data.baked.texts(self.split) or {"": list(data.baked.documents(self.split))}
        sums = {name: self._counts(model, params, data, self._excerpts(each, len(texts))) for name, each in texts.items()}
        whole = sum(sums.values())
        right, found, wanted = (int(n) for n in whole[0])
        of_texts = {f"{name}/f1": f1(each[0]) for name, each in sums.items() if name}
        own = {"precision": 100 * right / max(1, found), "recall": 100 * right / max(1, wanted)}
        return of_texts | own | {"f1": f1(whole[0]), "f1_inside": f1(whole[1])}

    def _excerpts(self, documents, texts):
        share = max(1, self.max_bytes // (texts * len(documents)))
        return [document[:share] for document in documents]

    def _counts(self, model, params, data, documents):
        """[all, inside of words][right, found, wanted] of the starts, int64."""
        counts = np.zeros((2, 3), np.int64)

        def see(batch, scores):
            segments, start_BL = batch["segment_ids"], scores.starts[0]
            before = np.pad(segments, ((0, 0), (1, 0)))[:, :-1]
            counted = (segments > 0) & (segments == before)
            wanted = np.pad(batch["cuts"], ((0, 0), (1, 0)))[:, :-1] > 0
            behind = np.pad(batch["tokens"], ((0, 0), (1, 0)))[:, :-1]
            inside = counted & ~np.isin(batch["tokens"], BLANK) & ~np.isin(behind, BLANK)
            for i, among in enumerate((counted, inside)):
                counts[i] += [(among & x).sum() for x in (start_BL & wanted, start_BL, wanted)]

        windows = data.windows_of(stream_of(documents, data.baked.tokenizer))
        bits_per_byte(model, params, windows, data, see)
        return counts


def f1(counts):
    """In %, of (right, found, wanted)."""
    right, found, wanted = (int(n) for n in counts)
    return 200 * right / max(1, found + wanted)
