"""Bits per byte of the same text written in other tokens of the same vocabulary."""

import dataclasses

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows
from lmlab.data.segmentations import BPEDropout, StochasTok
from lmlab.evaluation.bits_per_byte import bits_per_byte


@dataclasses.dataclass(frozen=True)
class Segmentations:
    """Of excerpts of one split, `max_bytes` in all, in the tokenizer's own tokens, with a share of them split
    (StochasTok) and under BPE-dropout: always the same segmentations, so that models of one tokenizer read the same.

    A segmentation's bits are those of its tokens. What a model spends on one it could have spent on others of the same
    bytes: all three are upper bounds of the bits of the bytes.
    """

    split: str = "test"
    max_bytes: int = 100_000
    share: float = 0.1
    rate: float = 0.1

    def __call__(self, model, params, data):
        """{"own_bpb", "split_bpb", "dropout_bpb": bits per byte; "split_cost", "dropout_cost": over the first}."""
        documents, tokenizer = list(data.baked.documents(self.split)), data.baked.tokenizer
        share = max(1, self.max_bytes // len(documents))
        stream = stream_of([document[:share] for document in documents], tokenizer)
        tokens = data.corruption.text_tokens(data.length)

        def score(windows):
            return bits_per_byte(model, params, windows, data)[0]

        def cut(corruption):
            return corruption.always(stream, corruption.positions(tokens), tokenizer)

        own = score(Windows(stream, tokens, tokenizer))
        split, dropped = score(cut(StochasTok(self.share))), score(cut(BPEDropout(self.rate)))
        bits = {"own_bpb": own, "split_bpb": split, "dropout_bpb": dropped}
        return bits | {"split_cost": split - own, "dropout_cost": dropped - own}
