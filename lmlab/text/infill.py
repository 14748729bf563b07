"""How a text with a gap is shown to a causal model, and how the gap is read from what it writes.

A text is a prefix, a middle that is to be found, and a suffix, cut between any two characters. Marks are ids above the
tokenizer's, in the order of `MARKS`.
"""

import dataclasses

import numpy as np

MARKS = ("PRE", "SUF", "MID", "START", "END")


def ids_of(tokenizer, *parts):
    """Marks (by name) and texts (bytes), each text encoded by itself, to ids."""
    marks = {name: tokenizer.vocab_size + i for i, name in enumerate(MARKS)}
    return np.concatenate([[marks[p]] if isinstance(p, str) else tokenizer.encode(p) for p in parts]).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class AtCharacters:
    """PRE prefix SUF suffix MID middle (Bavarian et al. 2022, arXiv 2207.14255), cut between characters: at the cuts there
    are tokens that whole text does not have."""

    def moved(self, text, begin, end, tokenizer):
        """Where training cuts: at the bytes `begin` and `end` that were drawn."""
        return begin, end

    def shown(self, prefix, middle, suffix):
        """(parts of what is read, text to be written)."""
        return ("PRE", prefix, "SUF", suffix, "MID"), middle

    def found(self, written, prefix, suffix):
        """The middle in what was written; None if there is none."""
        return written


@dataclasses.dataclass(frozen=True)
class AtTokens(AtCharacters):
    """The same, but training cuts only where the tokenizer does: then a cut inside of a token is never seen."""

    def moved(self, text, begin, end, tokenizer):
        """The last cuts of the tokenizer that are not behind the two bytes."""
        cuts = np.append(0, tokenizer.byte_spans(tokenizer.encode(text))[:, 1])
        return tuple(int(cuts[np.searchsorted(cuts, at, "right") - 1]) for at in (begin, end))


@dataclasses.dataclass(frozen=True)
class SuffixFirst(AtTokens):
    """PRE SUF suffix MID prefix middle (SPM of Bavarian et al.): the middle goes on from the prefix, so that a prefix which
    ends within a token can be answered exactly, with all that stands before it as the context."""

    def context(self, suffix):
        """Parts of what is read before the prefix."""
        return "PRE", "SUF", suffix, "MID"

    def shown(self, prefix, middle, suffix):
        """(parts of what is read, text to be written)."""
        return (*self.context(suffix), prefix), middle


@dataclasses.dataclass(frozen=True)
class AtLines(AtCharacters):
    """FIM-SE (arXiv 2405.17103): lines are written as a whole. What is left of the line in which the prefix ends, and what is
    left of the one in which the suffix begins, are shown between marks and written again around the middle, so that no
    part of a token is ever asked for.

    PRE lines before SUF lines behind START line's start END line's end MID start middle end.
    """

    @staticmethod
    def _cut(prefix, suffix):
        """(lines before, start, end, lines behind); a line's end is its own."""
        a, b = prefix.rfind(b"\n") + 1, suffix.find(b"\n") + 1 or len(suffix)
        return prefix[:a], prefix[a:], suffix[:b], suffix[b:]

    def shown(self, prefix, middle, suffix):
        """(parts of what is read, text to be written)."""
        before, start, end, behind = self._cut(prefix, suffix)
        return ("PRE", before, "SUF", behind, "START", start, "END", end, "MID"), start + middle + end

    def found(self, written, prefix, suffix):
        """What stands between the line's start and its end; None if they do not stand there."""
        _, start, end, _ = self._cut(prefix, suffix)
        if len(written) < len(start) + len(end) or not (written.startswith(start) and written.endswith(end)):
            return None
        return written[len(start) : len(written) - len(end)]
