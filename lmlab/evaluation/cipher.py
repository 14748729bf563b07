"""Text under a substitution cipher, and what a longer context is worth, for models of bytes."""

import dataclasses
import hashlib
import math

import numpy as np

from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.evaluation.rows import Rows

FROM = (0, 16, 64, 256)  # bytes since the beginning of an excerpt


def cipher(data, seed=0):
    """`data` with every byte value but BOS and EOS replaced by another one; the key is drawn from the text and `seed`."""
    digest = hashlib.sha256(f"cipher:{seed}:".encode() + data).digest()
    key = np.arange(256, dtype=np.uint8)
    key[:254] = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(254)
    return data.translate(key.tobytes())


def excerpts(documents, size, max_bytes, seed):
    """`max_bytes` of the documents (bytes) as excerpts of `size` bytes, less where a document has less, from as many of
    them in turn as it takes. They begin anywhere: beginnings of documents are of a kind, and so all bytes with little
    before them would be. UserError where there is no text."""
    if not any(documents):
        raise UserError("There is no text to take excerpts of: none of the documents is in this split.")
    rng, found, left = np.random.default_rng(seed), [], max_bytes
    while left > 0:
        for i in rng.permutation(len(documents)):
            found.append(documents[i][int(rng.random() * max(0, len(documents[i]) - size)) :][: min(size, left)])
            left -= len(found[-1])
            if left <= 0:
                break
    return found


def by_place(pairs):
    """{n of FROM: bits per byte of the bytes with at least n, and fewer than the next n, before them in their text} and
    under "" that of all; `pairs`: (nats of each byte, how many are before it) of some of them."""
    sums = np.zeros((len(FROM), 2))
    for nats, before in pairs:
        place = np.searchsorted(FROM, before, "right") - 1
        sums += np.stack([np.bincount(place, x, len(FROM)) for x in (nats.astype(np.float64), np.ones(len(nats)))], 1)
    bits = {f"/{n}": float(s[0] / (math.log(2) * s[1])) for n, s in zip(FROM, sums, strict=True) if s[1]}
    return bits | {"": float(sums[:, 0].sum() / (math.log(2) * sums[:, 1].sum()))}


@dataclasses.dataclass(frozen=True)
class Cipher:
    """Bits per byte of excerpts of one split, each a row, as they are, by how much of the excerpt a model sees before, and
    with each under a key of its own. Their ends are not counted."""

    split: str = "test"
    max_bytes: int = 100_000
    seed: int = 0

    def check(self, run):
        """UserError for a run that does not read plain bytes."""
        if run.tokenizer.vocab_size != 256:
            raise UserError("A cipher of bytes is for models that read bytes.")

    def __call__(self, model, params, data):
        """{"plain_bpb", "cipher_bpb", "cipher_cost": of the latter over the former; "plain_bpb/<n>", "cipher_bpb/<n>": as
        `by_place`}."""
        tokenizer = data.baked.tokenizer
        plain = excerpts(list(data.baked.documents(self.split)), data.length - 1, self.max_bytes, self.seed)
        values = {}
        for name, texts in (("plain", plain), ("cipher", [cipher(text, self.seed) for text in plain])):
            pairs = []

            def see(batch, scores, pairs=pairs):
                of_text_BL = batch["target_bytes"] > 0
                pairs.append((np.asarray(scores.nats_BL)[of_text_BL], np.nonzero(of_text_BL)[1]))

            bits_per_byte(model, params, Rows(texts, data.length, tokenizer), data, see)
            values |= {f"{name}_bpb{place}": bits for place, bits in by_place(pairs).items()}
        return values | {"cipher_cost": values["cipher_bpb"] - values["plain_bpb"]}
