"""Bits per byte and chunks of each text of a mixture."""

import dataclasses

from lmlab.data.bake import stream_of
from lmlab.evaluation.bits_per_byte import bits_per_byte


@dataclasses.dataclass(frozen=True)
class EachText:
    """Of one split of a `Mixture`, text by text; of another corpus, nothing."""

    split: str = "test"

    def __call__(self, model, params, data):
        """{"<text>/bpb", "<text>/bytes_per_chunk" of the innermost chunks, or of the tokens}."""
        result, tokenizer = {}, data.baked.tokenizer
        for text, documents in data.baked.texts(self.split).items():
            stream = stream_of(documents, tokenizer)
            bpb, source_bytes, starts = bits_per_byte(model, params, data.windows_of(stream), data)
            tokens = len(stream.tokens) - 2 * len(documents)  # without BOS and EOS
            result[f"{text}/bpb"] = bpb
            result[f"{text}/bytes_per_chunk"] = source_bytes / max(1, int(starts[-1]) if len(starts) else tokens)
        return result
