"""How many additions a model gets right, and where it goes wrong ("Tokenization counts", 2024)."""

import dataclasses

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import bits_per_byte


class _Rows:
    """A row for each document, as windows: whole, and alone."""

    def __init__(self, documents, length, tokenizer):
        self._each = [Windows(stream_of([d], tokenizer), length, tokenizer) for d in documents]
        longest = max(len(windows.stream.tokens) for windows in self._each)
        if longest > length + 1:
            raise UserError(f"A sum of {longest} tokens does not fit into rows of {length}.")

    def __len__(self):
        return len(self._each)

    def batch(self, indices, draws=None):
        """As `Windows.batch`."""
        rows = [self._each[max(i, 0)].batch([min(i, 0)]) for i in indices]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


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
        each, best = _Rows(documents, data.length, tokenizer), []
        bits_per_byte(model, params, each, data, lambda batch, scores: best.append(np.asarray(scores.best_BL)))
        rows, places = [], []
        for document, best_L in zip(documents, np.concatenate(best), strict=False):
            ids = np.append(tokenizer.encode(document), tokenizer.eos).astype(np.int64)
            spans, answer = tokenizer.byte_spans(ids[:-1]), document.index(b"=") + 1
            wrong = (ids != best_L[: len(ids)]) & np.append(spans[:, 0] >= answer, True)
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
