"""What a guess among all ids costs, to tell what a model has learned of its tokens from what they are by themselves."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class CodeLength:
    """Of one split, in the run's own tokens."""

    split: str = "test"

    def __call__(self, model, params, data):
        """{"uniform_bpb": bits per byte if every token, ends of documents aside, is one of all ids alike}."""
        stream, tokenizer = data.baked.split(self.split), data.baked.tokenizer
        tokens = len(stream.tokens) - 2 * len(stream.starts)
        return {"uniform_bpb": tokens * math.log2(tokenizer.vocab_size - 2) / data.baked.source_bytes(self.split)}
