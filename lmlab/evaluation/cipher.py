"""Text under a substitution cipher, and what a longer context is worth, for models of bytes."""

import dataclasses
import hashlib
import math

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import bits_per_byte

FROM = (0, 16, 64, 256)  # bytes since the beginning of what is seen


def cipher(data, seed=0):
    """`data` with every byte value but BOS and EOS replaced by another one; the key is drawn from the text and `seed`."""
    digest = hashlib.sha256(f"cipher:{seed}:".encode() + data).digest()
    key = np.arange(256, dtype=np.uint8)
    key[:254] = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(254)
    return data.translate(key.tobytes())


@dataclasses.dataclass(frozen=True)
class Cipher:
    """Bits per byte of excerpts of one split as they are, by how much of the excerpt a model sees before, and with each
    document under a key of its own. UserError for a run that does not read plain bytes."""

    split: str = "test"
    max_bytes: int = 100_000
    seed: int = 0

    def __call__(self, model, params, data):
        """{"plain_bpb", "cipher_bpb", "cipher_cost": of the latter over the former; "plain_bpb/<n>", "cipher_bpb/<n>": of
        bytes with at least n, and fewer than the next n, before them}."""
        tokenizer = data.baked.tokenizer
        if tokenizer.vocab_size != 256:
            raise UserError("A cipher of bytes is for models that read bytes.")
        documents = list(data.baked.documents(self.split))
        share = max(1, self.max_bytes // len(documents))
        # From anywhere: the beginnings of documents are of a kind, and so all bytes with little before them would be.
        starts = np.random.default_rng(self.seed).random(len(documents))
        excerpts = [
            document[int(u * max(0, len(document) - share)) :][:share] for u, document in zip(starts, documents, strict=True)
        ]
        values = {}
        for name, texts in (("plain", excerpts), ("cipher", [cipher(text, self.seed) for text in excerpts])):
            sums = np.zeros((len(FROM), 2))

            def see(batch, scores):
                segments_BL = batch["segment_ids"]
                new_BL = np.diff(segments_BL, axis=1, prepend=-1) != 0
                at_L = np.arange(segments_BL.shape[1])
                before_BL = at_L - np.maximum.accumulate(np.where(new_BL, at_L, 0), axis=1)
                bin_BL = np.searchsorted(FROM, before_BL, "right") - 1
                for column, x_BL in enumerate((scores.nats_BL, batch["target_bytes"])):
                    sums[:, column] += np.bincount(bin_BL.ravel(), x_BL.ravel().astype(np.float64), len(FROM))

            windows = data.windows_of(stream_of(texts, tokenizer))
            values[f"{name}_bpb"] = bits_per_byte(model, params, windows, data, see)[0]
            values |= {f"{name}_bpb/{n}": s[0] / (math.log(2) * s[1]) for n, s in zip(FROM, sums) if s[1]}
        return values | {"cipher_cost": values["cipher_bpb"] - values["plain_bpb"]}
