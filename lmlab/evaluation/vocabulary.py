"""How a tokenizer spends its vocabulary on a text."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Of one split, in the run's own tokens."""

    split: str = "test"

    def __call__(self, model, params, data):
        """{"types": % of the ids that occur; "unigram_bpb": bits per byte of the tokens by their own frequencies in the
        split; "phrases": % of the tokens that go over a space}."""
        stream, tokenizer = data.baked.split(self.split), data.baked.tokenizer
        counts = np.zeros(tokenizer.vocab_size, np.int64)
        for begin in range(0, len(stream.tokens), 1 << 20):
            counts += np.bincount(stream.tokens[begin : begin + (1 << 20)], minlength=len(counts))
        counts[[tokenizer.bos, tokenizer.eos]] -= len(stream.starts)
        over = np.array([b" " in tokenizer.token_bytes(i).strip() for i in range(len(counts))])
        seen = counts[counts > 0]
        bits = float(np.sum(seen * np.log2(seen.sum() / seen)))
        return {
            "types": 100 * len(seen) / (len(counts) - 2),
            "unigram_bpb": bits / data.baked.source_bytes(self.split),
            "phrases": 100 * float(counts[over].sum() / counts.sum()),
        }
