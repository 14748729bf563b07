"""Where a sequence of tokens may stand in a text, and which tokens lead from there where, but for merges that may cross.

`exits(place)`: {token: places behind it, if any}; `joined(place)`: whether the next token goes on with the pre-token, so that
merges must not cross; `last(place)`: whether the text may end; `open(place)`: whether something must yet come.
"""

import functools

import numpy as np

from lmlab.text.prefixes import Prefixes
from lmlab.text.pretokens import BEGINS

SHARED = 3  # bytes of a token up to which what follows is kept, as most places are the same behind the first character
RAW = "raw"  # mode behind a byte that is no part of a character


@functools.cache
def _utf8(data):
    """A character, "" for the beginning of one, or None for bytes that begin none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return "" if error.reason == "unexpected end of data" else None


def _raw(pending, byte):
    """What bytes that make no character must not become, one byte later; None where they have become a character."""
    whole = _utf8(pending + bytes([byte])) if pending else None
    if whole is None:
        return bytes([byte]) if _utf8(bytes([byte])) == "" else b""
    return None if whole else pending + bytes([byte])


class Words:
    """Of a byte-level vocabulary. A place is (mode, bytes of a character so far); mode `RAW`: bytes of none so far."""

    start = (BEGINS, b"")

    def __init__(self, tokens, byte_ids, pretokens):
        self._prefixes, self._byte_ids, self._pretokens = Prefixes(tokens), byte_ids, pretokens
        self._step, self._known = functools.cache(self._step), {}

    def _step(self, place, byte):
        """Places behind one more byte of a token that ends no pre-token."""
        mode, pending = (BEGINS, b"") if place[0] == RAW else place
        character = _utf8(pending + bytes([byte]))
        if character is None:
            return ()
        if not character:
            return ((mode, pending + bytes([byte])),) if self._pretokens.fits(mode, pending + bytes([byte])) else ()
        return tuple((behind, b"") for behind in self._pretokens.read(mode, character))

    def _below(self, node, places):
        """{token: places behind it} of the tokens below a node, read from the places at it."""
        key = (node.first, node.depth, places)
        if key in self._known:
            return self._known[key]
        found = {}
        for byte in node.bytes_C.tolist():
            if behind := frozenset(p for place in places for p in self._step(place, byte)):
                below = self._prefixes.child(node, byte)
                found.update(dict.fromkeys(self._prefixes.own(below).tolist(), behind))
                if len(below.bytes_C):
                    found.update(self._below(below, behind))
        if node.depth <= SHARED:
            self._known[key] = found
        return found

    def exits(self, place):
        """By going through the vocabulary byte by byte."""
        found = self._below(self._prefixes.root, frozenset([place]))
        found = {token: behind | self._ended(behind) for token, behind in found.items()}
        if not self.joined(place) and self.last(place):
            before = place[1] if place[0] == RAW else b""
            for byte in range(128, 256):
                if (raw := _raw(before, byte)) is not None:
                    token = self._byte_ids[byte]
                    found[token] = found.get(token, frozenset()) | {(RAW, raw)}
        return found

    def spells(self, place, data):
        """Places behind a pre-token of these bytes."""
        places = {place}
        for byte in data:
            places = {behind for at in places for behind in self._step(at, byte)}
        return self._ended(places)

    def _ended(self, places):
        return {(end, b"") for mode, pending in places if not pending for end in self._pretokens.ended(mode)}

    def joined(self, place):
        """Within a pre-token."""
        mode, pending = place
        return mode != RAW and (bool(pending) or mode not in self._pretokens.begins)

    def last(self, place):
        """Behind a pre-token, or bytes of no character."""
        mode, pending = place
        return mode == RAW or (not pending and self._pretokens.last(mode))

    def open(self, place):
        """Within a character or a pre-token that cannot end here."""
        mode, pending = place
        return self.joined(place) and (bool(pending) or not self._pretokens.ended(mode))


class WordsAndRuns(Words):
    """`Words` of `BetweenRuns`, and the runs."""

    def exits(self, place):
        """Runs too, where the text between them may end."""
        found = super().exits(place)
        if self.joined(place) or not self.last(place):
            return found
        runs = self._pretokens.runs(BEGINS if place[0] == RAW else place[0])
        return found | {token: frozenset([(mode, b"")]) for token, mode in runs.items()}


class Pieces:
    """Of a SentencePiece vocabulary with byte fallback: pieces of whole characters, and bytes of what no piece spells.
    A place is what the last bytes must not become, unless no piece spells it. Everything is one pre-token.
    """

    start = b""

    def __init__(self, tokens, byte_ids, reachable):
        self._byte_ids, ids = byte_ids, np.flatnonzero(reachable)
        plain = np.setdiff1d(ids, byte_ids).tolist()
        self._pieces = dict.fromkeys(plain, frozenset([b""]))
        self._spelled = {tokens[token] for token in plain}

    def exits(self, place):
        """Any piece, and bytes that do not spell one that has its own."""
        found = dict(self._pieces)
        for byte, token in enumerate(self._byte_ids):
            data = place + bytes([byte])
            if _utf8(data) is None:
                data = bytes([byte])
            if data in self._spelled:
                continue
            if _utf8(data):
                found[token] = frozenset([b""])
            else:
                found[token] = frozenset([data if _utf8(data) == "" else b""])
        return found

    def joined(self, place):
        """Always."""
        return True

    def last(self, place):
        """Anywhere."""
        return True

    def open(self, place):
        """Never."""
        return False
