"""Additions, one to a document: "1234+987=2221"."""

import dataclasses

import numpy as np

from lmlab.data.corpora import Document
from lmlab.data.synthetic import SPLITS
from lmlab.errors import UserError
from lmlab.text.digits import group

SEPARATORS = ("", ",")


@dataclasses.dataclass(frozen=True)
class Sums:
    """`count` additions of two numbers, each of `digits` ("least", "most") digits, their lengths drawn evenly.

    `separator`: between every `group` digits from the right, so that a tokenizer that groups from the left must group
    from the right. Sums that are equal up to order are on the same side of the splits: every tenth distinct pair is for
    validation and test in turn.
    """

    synthetic = True

    count: int = 20_000
    digits: tuple[int, ...] = (2, 4)
    separator: str = ""
    group: int = 3
    validation: float = 0.1  # as the numbers are split; not to be changed
    test: float = 0.1

    def __post_init__(self):
        least, most = (*self.digits, 0, 0)[:2]
        if len(self.digits) != 2 or not 1 <= least <= most <= 15 or self.count < 10:
            raise UserError("Sums need a count of at least 10 and digits=(least, most) with 1 <= least <= most <= 15.")
        if self.group < 1:
            raise UserError(f"A group has at least 1 digit, not {self.group}.")
        if self.separator not in SEPARATORS:
            raise UserError(f"Digits are separated by a comma or by nothing, not by {self.separator!r}.")

    def documents(self):
        """Yields every sum once."""
        rng, seen = np.random.default_rng(0), set()
        least, most = self.digits
        for i in range(self.count):
            lengths = rng.integers(least, most + 1, 2)
            a, b = (int(rng.integers(10 ** (n - 1), 10**n)) for n in lengths)
            if (min(a, b), max(a, b)) in seen:
                continue
            seen.add((min(a, b), max(a, b)))
            yield Document(f"sum {i}", self._text(a, b), SPLITS.get(len(seen) % 10, "train"))

    def _text(self, a, b):
        separator = self.separator.encode()
        a, b, total = (separator.join(group(b"%d" % n, "right", self.group)) for n in (a, b, a + b))
        return b"%s+%s=%s" % (a, b, total)

    def fingerprint(self):
        """Names the baked text."""
        return f"sums-{self.count}-{self.digits[0]}-{self.digits[1]}-{f'comma{self.group}' if self.separator else 'none'}"
