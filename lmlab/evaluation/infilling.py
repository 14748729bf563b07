"""Short gaps in held-out text, cut between any two characters: what they cost, and whether they are filled exactly."""

import dataclasses

import numpy as np

from lmlab.data.infilling import FillIn, byte_places, rows_of
from lmlab.decoding.generate import generate
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.text.infill import ids_of


@dataclasses.dataclass(frozen=True)
class Infilling:
    """`gaps` gaps of 1 to `longest` characters in excerpts of `excerpt` bytes, the same for every kind of tokens.

    A middle's bits are those of all that the model writes for it, with what it repeats of the middle's lines and with the
    end; its bytes are its own. Filled: greedily, within `new` tokens, and byte for byte.
    """

    split: str = "test"
    gaps: int = 64
    longest: int = 20
    excerpt: int = 240
    new: int = 64
    rows: int = 16

    def check(self, run):
        """UserError for a run that does not fill gaps."""
        if not isinstance(run.corruption, FillIn):
            raise UserError("Gaps are filled by models of a run whose corruption is FillIn.")

    def __call__(self, model, params, data):
        """{"middle_bpb": bits per byte of the middles; "filled": % of them; "unfit": % of what was written in which there is
        no middle}."""
        tokenizer, kind, gaps = data.baked.tokenizer, data.corruption.kind, self._gaps(data)
        made = [rows_of(kind, *gap, tokenizer, only_middle=True) for gap in gaps]
        middle_bpb = bits_per_byte(model, params, _Rows(made), data)[0]
        prompts = [np.append(tokenizer.bos, ids_of(tokenizer, *kind.shown(*gap)[0])) for gap in gaps]
        filled = unfit = 0
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        for begin in range(0, len(gaps), self.rows):
            data.check()
            group = order[begin : begin + self.rows]
            ids = generate(model, params, [prompts[i] for i in group], self.new, tokenizer.eos, temperature=0.0)
            for i, row in zip(group, ids):
                prefix, middle, suffix = gaps[i]
                text = row[: np.argmax(row == tokenizer.eos)] if (row == tokenizer.eos).any() else row
                found = kind.found(tokenizer.decode(text[text < tokenizer.vocab_size]), prefix, suffix)
                filled += found == middle
                unfit += found is None
        return {"middle_bpb": middle_bpb, "filled": 100 * filled / len(gaps), "unfit": 100 * unfit / len(gaps)}

    def _gaps(self, data):
        """[(prefix, middle, suffix)]: of every document in turn, at places that only the text and its number decide."""
        documents, gaps = list(data.baked.documents(self.split)), []
        for number in range(self.gaps):
            document, rng = documents[number % len(documents)], np.random.default_rng((self.excerpt, number))
            start = int(rng.integers(max(1, len(document) - self.excerpt)))
            text = document[start : start + self.excerpt].decode("utf-8", "ignore").encode()
            places = byte_places(text)
            first = int(rng.integers(max(1, len(places) - self.longest)))
            last = min(len(places) - 1, first + int(rng.integers(1, self.longest + 1)))
            gaps.append((text[: places[first]], text[places[first] : places[last]], text[places[last] :]))
        return [gap for gap in gaps if gap[1]]


class _Rows:
    """Rows that are made already, as windows."""

    def __init__(self, rows):
        self._all, self._length = rows, -(-max(len(row["tokens"]) for row in rows) // 32) * 32

    def __len__(self):
        return len(self._all)

    def batch(self, indices, draws=None):
        """As `Windows.batch`."""
        made = {name: np.zeros((len(indices), self._length), array.dtype) for name, array in self._all[0].items()}
        for row, index in enumerate(indices):
            for name, values in self._all[index].items() if index >= 0 else ():
                made[name][row, : len(values)] = values
        return made
