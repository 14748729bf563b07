"""Strings of letters that are written shorter than they are read: what a position's deletion may cost is known (MrT5,
Kallini et al. 2025, arXiv 2410.20771, section 4).

A document is a pure function of its number; of every ten, eight are for training and one each for validation and test.
"""

import dataclasses
import string

import numpy as np

from lmlab.data.corpora import Document
from lmlab.data.rewriting import Rewriting
from lmlab.data.synthetic import SPLITS
from lmlab.errors import UserError

LETTERS = np.frombuffer(string.ascii_letters.encode(), np.uint8)
VOWELS = np.frombuffer(b"aeiouAEIOU", np.uint8)
CONSONANTS = np.setdiff1d(LETTERS, VOWELS)
TRIPLE, MERGED = b"ABC", b"D"


PLANTED = {"pairs": (2, 25 / 62), "triples": (3, 5 / 62)}  # length, and the mean number per letter: the paper's code


@dataclasses.dataclass(frozen=True)
class Letters:
    """`count` strings of `size` letters, drawn evenly from both cases. `planted` overwrites some of each by "pairs" of any
    consonant and any vowel, or by "triples", TRIPLE: a normal number of them, of a deviation of half its mean and at least
    one, at places that do not overlap, as far as there are any."""

    synthetic = True
    validation, test = 0.1, 0.1  # as the numbers are split

    count: int = 20_000
    size: int = 62
    planted: str | None = None

    def __post_init__(self):
        if self.count < 10 or self.size < 3 or self.planted not in (None, *PLANTED):
            raise UserError('Strings of letters need a count of at least 10 and a size of 3; "pairs" or "triples" are planted.')

    def documents(self):
        """Yields every string once."""
        for i in range(self.count):
            yield Document(f"letters {i}", self._document(np.random.default_rng((0, i))), SPLITS.get(i % 10, "train"))

    def _document(self, rng):
        letters = rng.choice(LETTERS, self.size)
        if self.planted:
            length, density = PLANTED[self.planted]
            mean, free = density * self.size, np.ones(self.size, bool)
            wanted = max(1, int(rng.normal(mean, mean / 2)))
            for at in rng.permutation(self.size - length + 1):
                if wanted and free[at : at + length].all():
                    pair = (rng.choice(CONSONANTS), rng.choice(VOWELS))
                    letters[at : at + length] = pair if self.planted == "pairs" else np.frombuffer(TRIPLE, np.uint8)
                    free[at : at + length], wanted = False, wanted - 1
        return letters.tobytes()

    def fingerprint(self):
        """Names the baked text."""
        return f"letters-{self.count}-{self.size}-{self.planted}"


@dataclasses.dataclass(frozen=True)
class WithoutVowels(Rewriting):
    """Vowels are left out: all, or, with `behind_consonants`, those behind a consonant in lower case. What is written covers
    itself and what was left out before it."""

    behind_consonants: bool = False

    def spared(self, document):
        """(bool [n]: positions that may go unread; how many of them can)."""
        vowel = np.isin(document, VOWELS)
        gone = vowel
        if self.behind_consonants:
            consonant = ~vowel & (document >= ord("a"))
            gone = vowel & np.append(False, consonant[:-1])
        return gone, int(gone.sum())

    def pair(self, document):
        """As `Rewriting`."""
        kept = ~self.spared(document)[0]
        return document, document[kept], _covered(kept)


@dataclasses.dataclass(frozen=True)
class Merged(Rewriting):
    """MERGED is written for every TRIPLE, and covers all of it."""

    def _ends(self, document):
        """Where a TRIPLE ends."""
        padded = np.append([0, 0], document)
        return np.flatnonzero(np.all([padded[i : i + len(document)] == letter for i, letter in enumerate(TRIPLE)], axis=0))

    def spared(self, document):
        """As of `WithoutVowels`: of a TRIPLE any letter may, and two can."""
        ends, of_any = self._ends(document), np.zeros(len(document), bool)
        of_any[[ends, ends - 1, ends - 2]] = True
        return of_any, 2 * len(ends)

    def pair(self, document):
        """As `Rewriting`."""
        ends, written, kept = self._ends(document), document.copy(), np.ones(len(document), bool)
        written[ends], kept[[ends - 1, ends - 2]] = MERGED[0], False
        return document, written[kept].astype(np.int32), _covered(kept)


def _covered(kept):
    """Letters from behind each kept one to the next, and from behind the last to the end."""
    return np.diff(np.concatenate([[-1], np.flatnonzero(kept), [len(kept) - 1]]))
