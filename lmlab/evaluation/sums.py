"""How many additions a model gets right, what they cost it, and where it goes wrong ("Tokenization counts", 2024)."""

import dataclasses
import math

import numpy as np

from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.evaluation.rows import Rows


def sum_class(document, group=3):
    """Of b"1234+987=2221", commas apart: "same" where addends and answer have as many digits, "carry" where only the
    answer has one more, "unequal" where an addend is shorter; None where no number is longer than a `group`."""
    a, b, total = (len(part) for part in document.replace(b",", b"").replace(b"=", b"+").split(b"+"))
    if total <= group:
        return None
    return "unequal" if a != b else "same" if total == a else "carry"


CLASSES = ("same", "carry", "unequal")


@dataclasses.dataclass(frozen=True)
class SumAccuracy:
    """Share of the sums of a split that greedy decoding behind "=" would write: every token of the answer, and its end,
    is the likeliest one behind the true ones before it; and what the answers cost. For `Sums`, on any tokens."""

    split: str = "test"
    most: int = 2000  # sums
    group: int = 3  # digits

    def __call__(self, model, params, data):
        """{"right": % of all, "right/<class>": % of those of a `sum_class`, "bits": of an answer and its end, per digit,
        "bits/<class>"; "first_wrong": mean place, from the left and in % of the answer's bytes, of the first wrong
        token}; without a class that has no sums."""
        tokenizer = data.baked.tokenizer
        documents = [d for _, d in zip(range(self.most), data.baked.documents(self.split), strict=False)]
        each, best, nats = Rows(documents, data.length, tokenizer), [], []

        def see(batch, scores):
            best.append(np.asarray(scores.best_BL))
            nats.append(np.asarray(scores.nats_BL, np.float64))

        bits_per_byte(model, params, each, data, see)
        rows, places = [], []
        for document, best_L, nats_L in zip(documents, np.concatenate(best), np.concatenate(nats), strict=False):
            ids = np.append(tokenizer.encode(document), tokenizer.eos).astype(np.int64)
            spans, answer = tokenizer.byte_spans(ids[:-1]), document.index(b"=") + 1
            of_answer = np.append(spans[:, 0] >= answer, True)
            wrong = (ids != best_L[: len(ids)]) & of_answer
            bits = nats_L[: len(ids)][of_answer].sum() / math.log(2)
            rows.append((sum_class(document, self.group), not wrong.any(), bits, len(document[answer:].replace(b",", b""))))
            if wrong.any():
                at = min(int(np.argmax(wrong)), len(spans) - 1)
                places.append(100 * (spans[at, 0] - answer) / (len(document) - answer))
        classes, right, bits, digits = (np.array(column) for column in zip(*rows, strict=True))
        values = {"first_wrong": float(np.mean(places)) if places else 100.0}
        for name, those in {"": classes == classes, **{f"/{c}": classes == c for c in CLASSES}}.items():
            if those.any():
                values[f"right{name}"] = 100 * float(right[those].mean())
                values[f"bits{name}"] = float(bits[those].sum() / digits[those].sum())
        return values
