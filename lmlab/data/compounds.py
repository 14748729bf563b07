"""Words with hyphens, as CompoundPiece learns from them (Minixhofer, Pfeiffer, Vulić 2023, arXiv 2305.14214): those that
a text itself writes with one, and compounds of which it is known where their constituents meet.

A document is one word, written with its hyphens, or one that has none.
"""

import collections
import dataclasses
import functools
import hashlib
import re
from typing import Any

import numpy as np

from lmlab.data.corpora import Document, StandardLibrary, read_file, split_of
from lmlab.data.library_parts import LibraryPart
from lmlab.errors import UserError
from lmlab.text.compounds import HYPHEN, hyphenated, joined

LETTERS = r"[^\W\d_]"
LONGEST = 30  # bytes of a word


def words_in(data):
    """The words of a document that are letters alone, in lower case, bytes; without those with capitals inside, which are
    several words run together ("StringIO")."""
    found = re.findall(rf"(?<![\w-]){LETTERS}+(?![\w-])", data.decode("utf-8", "ignore"))
    return (word.lower().encode() for word in found if word.isupper() or word[1:] == word[1:].lower())


@functools.lru_cache(maxsize=4)
def word_counts(source):
    """{word: how often it occurs in the corpus}, of `words_in`."""
    return collections.Counter(word for d in source.documents() for word in words_in(d.data))


def in_order(words):
    """The words in an order that only their bytes decide: by the reversed hash, as its first bytes decide the split."""
    return sorted(words, key=lambda word: hashlib.sha256(word).digest()[::-1])


@dataclasses.dataclass(frozen=True)
class Hyphenated:
    """The words of `source` that are written with a hyphen, and as many that never are, or all of these.

    Constituents have two letters or more. `joints`: what counts as a hyphen; with "-_" the names in code, which are joined
    by underscores, count too. Of two spellings of a word the commoner is taken. What is not hyphenated here may be a
    compound all the same: that is the noise that the method lives with.
    """

    source: Any = StandardLibrary()
    joints: str = "-"
    validation: float = 0.05
    test: float = 0.05

    def documents(self):
        """Yields every word once; UserError for a text with fewer than ten that have a hyphen."""
        joint, forms = f"[{re.escape(self.joints)}]", collections.defaultdict(collections.Counter)
        pattern = re.compile(rf"(?<![\w/.-]){LETTERS}{{2,}}(?:{joint}{LETTERS}{{2,}})+(?![\w-])")
        for document in self.source.documents():
            for word in pattern.findall(document.data.decode("utf-8", "ignore").lower()):
                form = re.sub(joint, HYPHEN.decode(), word).encode()
                if len(form) <= LONGEST:
                    forms[joined(form)][form] += 1
        if len(forms) < 10:
            raise UserError(f"The text has only {len(forms)} words with a hyphen, too few to learn from.")
        for word in in_order(forms):
            form = min(forms[word], key=lambda f: (-forms[word][f], f))
            yield Document(form.decode(), form)
        others = (w for w in word_counts(self.source) if 4 <= len(w) <= LONGEST and w not in forms)
        for word in in_order(others)[: len(forms)]:
            yield Document(word.decode(), word)

    def fingerprint(self):
        """Names the baked words."""
        return f"hyphenated2-{''.join(f'{ord(c):x}' for c in self.joints)}-{self.source.fingerprint()}"


@dataclasses.dataclass(frozen=True)
class Compounds:
    """Compounds with hyphens at their seams, and about as many words that are none.

    `path`: a file of SIGMORPHON 2022's word segmentation, in which the kinds 001 (compounds of whole words) and 000 (simple
    words) are taken, if their parts, joined, are the word. None: made up, `count` words: two of the `frequent` commonest
    words of `source` of three to eight letters, now and then three, against its rarer words, there twice at least, that
    neither two of them make nor any two words that are commoner than the whole ("docstring"). Made-up compounds mean
    nothing, any two words join as well, and who knows which words are frequent has been told what they are made of.
    """

    path: str | None = None
    count: int = 4000
    frequent: int = 1000
    source: Any = LibraryPart()
    validation: float = 0.05
    test: float = 0.1

    def __post_init__(self):
        if not 20 <= self.count <= self.frequent**2 // 2:
            raise UserError("Made-up compounds need a count of at least 20, and at most half the pairs of frequent words.")

    def check(self):
        """UserError unless there are words."""
        next(iter(self.documents()))

    def documents(self):
        """Yields every word once."""
        for word in self._made() if self.path is None else self._read():
            yield Document(word.decode(), word)

    def split(self, name, most=None):
        """The words of "train", "validation" or "test", `most` at most, in an order of their bytes alone."""
        words = (d.data for d in self.documents())
        return in_order(word for word in words if split_of(word, self.validation, self.test) == name)[:most]

    def _made(self):
        counts = word_counts(self.source)
        common = sorted(counts, key=lambda w: (-counts[w], w))
        parts = [w for w in common if 3 <= len(w) <= 8 and w.isalpha()][: self.frequent]
        if len(parts) < self.frequent:
            raise UserError(f"The text has only {len(parts)} words of three to eight letters, not {self.frequent}.")
        known = set(parts)
        commoner = lambda part, w: part in known or counts[part] > counts[w]  # noqa: E731
        seam = lambda w, i: commoner(w[:i], w) and commoner(w[i:], w)  # noqa: E731
        simple = (w for w in common if 6 <= len(w) <= 16 and counts[w] > 1 and w not in known)
        simple = (w for w in simple if not any(seam(w, i) for i in range(3, len(w) - 2)))
        simple, rng, made = in_order(simple)[: self.count // 2], np.random.default_rng(0), {}
        if len(simple) < self.count // 2 * 0.9:  # as many of either kind, or whoever splits all words is right
            raise UserError(f"The text has only {len(simple)} words for the {self.count // 2} that are no compounds.")
        while len(made) < self.count // 2:
            chosen = [parts[i] for i in rng.integers(len(parts), size=2 if rng.random() < 0.9 else 3)]
            word = HYPHEN.join(chosen)
            if joined(word) not in counts and len(word) <= LONGEST:
                made.setdefault(joined(word), word)
        return [*made.values(), *simple]

    def _read(self):
        words = {}
        for line in read_file(self.path).splitlines():
            fields = line.split(b"\t")
            if len(fields) != 3:
                raise UserError(f"{self.path} is no file of SIGMORPHON 2022's words: a line has {len(fields)} fields, not 3.")
            word, cut, kind = fields
            parts = cut.replace(b"@@", b"").split()
            if kind in (b"000", b"001") and b"".join(parts) == word and len(word) <= LONGEST and HYPHEN not in word:
                ends = np.cumsum([len(part) for part in parts])[:-1]
                words.setdefault(word, hyphenated(word, ends.tolist() if kind == b"001" else []))
        few = min(sum((HYPHEN in w) == compound for w in words.values()) for compound in (True, False))
        if few < 10:
            raise UserError(f"{self.path} holds only {few} compounds or simple words of one spelling.")
        # As many of either kind, or whoever leaves all words whole is right.
        kinds = [in_order(w for w in words.values() if (HYPHEN in w) == compound) for compound in (True, False)]
        return [word for kind in kinds for word in kind[:few]]

    def fingerprint(self):
        """Names the baked words."""
        if self.path is None:
            return f"compounds2-{self.count}-{self.frequent}-{self.source.fingerprint()}"
        return f"compounds-{hashlib.sha256(read_file(self.path)).hexdigest()[:16]}"
