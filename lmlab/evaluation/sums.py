"""How many additions a model gets right, and where it goes wrong ("Tokenization counts", 2024)."""

import dataclasses

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows
from lmlab.evaluation.bits_per_byte import bits_per_byte


@dataclasses.dataclass(frozen=True)
class SumAccuracy:
    """Share of the sums of a split that greedy decoding behind "=" would write: every token of the answer, and its end,
    is the likeliest one behind the true ones before it. For `Sums`, on any tokens."""

    split: str = "test"
    most: int = 1000  # sums

    def __call__(self, model, params, data):
        """{"right", "right_longer": where the answer has more digits than either addend, "right_equal": where not, all
        in %; "first_wrong": mean place, from the left and in % of the answer's bytes, of the first wrong token}."""
        tokenizer = data.baked.tokenizer
        documents = [d for _, d in zip(range(self.most), data.baked.documents(self.split), strict=False)]
        windows, best = Windows(stream_of(documents, tokenizer), data.length, tokenizer), []
        bits_per_byte(model, params, windows, data, lambda batch, scores: best.append(scores.best_BL.reshape(-1)))
        best = np.concatenate(best)
        bounds = np.append(windows.stream.starts, len(windows.stream.tokens))
        rows, places = [], []
        for document, start, end in zip(documents, bounds[:-1], bounds[1:], strict=True):
            ids = windows.stream.tokens[start + 1 : end].astype(np.int64)
            spans, answer = tokenizer.byte_spans(ids[:-1]), document.index(b"=") + 1
            wrong = (ids != best[start : end - 1]) & np.append(spans[:, 0] >= answer, True)
            addends, total = document[: answer - 1].replace(b",", b"").split(b"+"), document[answer:].replace(b",", b"")
            rows.append((not wrong.any(), len(total) > max(map(len, addends))))
            if wrong.any():
                at = min(int(np.argmax(wrong)), len(spans) - 1)
                places.append(100 * (spans[at, 0] - answer) / (len(document) - answer))
        right, longer = np.array(rows).T
        result = {"right": _percent(right), "right_longer": _percent(right[longer]), "right_equal": _percent(right[~longer])}
        return result | {"first_wrong": float(np.mean(places)) if places else 100.0}


def _percent(values):
    return 100 * float(np.mean(values)) if len(values) else 0.0
