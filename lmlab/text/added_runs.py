"""Runs of a character that a text is cut at before its pre-tokenizer sees the rest: NeoX's spaces, CodeGen's tabs.

Such tokens are added to a vocabulary, for 2 to M of the character. A longer run is cut into as many tokens of M as fit and
one of what is left, of which one alone stays in the text behind. So between them no two of the character meet.
"""

from lmlab.errors import UserError
from lmlab.text.pretokens import BEGINS


def added_runs(added_tokens):
    """{token: (character, its number, the largest number of this character)} of the added tokens that are not special.

    Raises:
        UserError: they are not runs of 2 to some number of an ASCII character that are all looked for at once, or they are in
            the name of a special token, which is looked for with them.
    """
    found, flags = {}, set()
    for token in added_tokens or ():
        if not token["special"]:
            text, plain = token["content"], not any(token[side] for side in ("single_word", "lstrip", "rstrip"))
            flags.add(token["normalized"])
            if not plain or len(flags) > 1 or len(text) < 2 or len(set(text)) > 1 or not text.isascii():
                raise UserError("This tokenizer has added tokens that text is cut at first: its encodings are not known exactly.")
            found.setdefault(text[0], {})[len(text)] = token["id"]
    for character, tokens in found.items():
        if sorted(tokens) != list(range(2, len(tokens) + 2)):
            raise UserError(f"Of the added runs of {character!r} some length is missing: encodings are not known exactly.")
        if any(2 * character in token["content"] for token in added_tokens if token["special"]):
            raise UserError(f"A special token has a run of {character!r}, as added tokens are: encodings are not known exactly.")
    return {token: (c, n, max(tokens)) for c, tokens in found.items() for n, token in tokens.items()}


class BetweenRuns:
    """A grammar (see `lmlab.text.pretokens`) of text between such runs. A mode is that grammar's and the character, if it
    has runs, that stood last and that must not come next."""

    def __init__(self, grammar, runs):
        self._grammar, self._runs = grammar, runs
        self._characters = {character for character, *_ in runs.values()}
        self.begins = {(mode, last) for mode in grammar.begins for last in (None, *self._characters)} | {BEGINS}

    def _of(self, mode):
        return (BEGINS, None) if mode == BEGINS else mode

    def read(self, mode, character):
        """The grammar's, but no two of a character that has runs."""
        mode, last = self._of(mode)
        if character == last:
            return ()
        last = character if character in self._characters else None
        return tuple((behind, last) for behind in self._grammar.read(mode, character))

    def fits(self, mode, begun):
        """The grammar's, as characters that have runs are of one byte."""
        return self._grammar.fits(self._of(mode)[0], begun)

    def ended(self, mode):
        """The grammar's."""
        mode, last = self._of(mode)
        return tuple((end, last) for end in self._grammar.ended(mode))

    def last(self, mode):
        """Where the grammar's text may end."""
        return self._grammar.last(self._of(mode)[0])

    def runs(self, mode):
        """{token: mode behind it} of the runs that may come where the grammar's text may end."""
        last = self._of(mode)[1]
        return {
            token: (BEGINS, None if count == most else character)
            for token, (character, count, most) in self._runs.items()
            if character != last
        }
