r"""Where cl100k's pre-tokenizer (GPT-4) may cut, and its like of one digit at a time (Qwen 2). See `lmlab.text.pretokens`.

    (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+

A word takes one character before it, unless that is a letter, a number or the end of a line. Others take one space before
them and ends of lines behind. White space is cut behind its last end of a line; of what has none, all but the last
character is one pre-token, as in GPT-2's, and the last belongs to what follows if that takes it.
"""

import tokenizers

from lmlab.text.kinds import LETTER, NEWLINE, NUMBER, OTHER, SPACE, Kinds, starts
from lmlab.text.pretokens import BEGINS, TWO_LETTERS

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4, QWEN2 = _PATTERN % "{1,3}", _PATTERN % ""
DIGITS = {GPT4: 3, QWEN2: 1}  # numbers in a pre-token, at most

# Behind a pre-token: kinds of which the next is none.
_NOT = {
    BEGINS: (),
    "after letter": (LETTER,),
    "after number": (NUMBER,),
    "after other": (OTHER, NEWLINE),
    "after one other": (OTHER, NEWLINE, LETTER),  # which would have taken it
    "after other newline": (NEWLINE,),
    "after newline": (NEWLINE,),  # and no white space with one in it
    "after spaces": (LETTER, NUMBER, OTHER, NEWLINE),  # the last of them, or the end of the text
    "after blank": (LETTER, OTHER, SPACE, NEWLINE),  # a space on its own
    "after tab": (LETTER, SPACE, NEWLINE),  # other white space on its own
}
# In a pre-token: what it becomes with one more character of a kind, and what is behind its end, if it may end.
_GOES_ON = {
    "letter": {LETTER: "letter"},
    "prefix": {LETTER: "letter"},  # of a word
    "one other": {OTHER: "other", NEWLINE: "other newline"},
    "other": {OTHER: "other", NEWLINE: "other newline"},
    "space other": {OTHER: "other"},
    "other newline": {NEWLINE: "other newline"},
    "spaces": {SPACE: "spaces"},
    "lines": {SPACE: "lines", NEWLINE: "newline"},  # white space that an end of a line must yet follow
    "newline": {SPACE: "lines", NEWLINE: "newline"},
}
_ENDS = {
    **{mode: f"after {mode}" for mode in ("letter", "one other", "other", "other newline", "newline", "spaces")},
    **{"blank": "after blank", "tab": "after tab", "contraction": BEGINS},
}


class CL100K:
    """`pattern`: one of `DIGITS`."""

    begins = frozenset(_NOT)

    def __init__(self, pattern):
        self._digits = DIGITS[pattern]
        self._library = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        self._kinds = Kinds(self._classify)
        # Letters of contractions in both cases, and the long s, which is one where cases are folded.
        self._one_letter = {c for c in "sStTmMdD\u017f" if 2 in starts(self._library, f"'{c}x")}

    def _classify(self, characters):
        """Kinds, as the library's own tables have them."""

        def joined(before, behind):
            found = starts(self._library, "".join(f"{before}{c}{behind}\n" for c in characters))
            return {c for i, c in enumerate(characters) if 3 * i + 1 not in found}

        letters, takes, others = joined("a", ""), joined("", "a"), joined("!", "")
        return {
            c: LETTER if c in letters else NEWLINE if c in "\r\n" else NUMBER if c not in takes else OTHER if c in others else SPACE
            for c in characters
        }

    def read(self, mode, character):
        """Modes behind one more character. Beside those of the tables: "number2", of two numbers; "blank" and "tab", a
        space and other white space on its own; "'" and "'r", a contraction so far; "contraction", a whole one; "' prefix",
        an apostrophe before a word that is none; "not e", such a word so far, which this letter would make one."""
        return self._read(mode, self._kinds.of(character), character)

    def _read(self, mode, kind, character):
        if mode in _NOT:
            return () if kind in _NOT[mode] else self._begin(mode, kind, character)
        letter = character.lower() if character else None
        if mode == "'":
            return ("contraction",) if character in self._one_letter else (f"'{letter}",) if letter in TWO_LETTERS else ()
        if mode in ("'r", "'v", "'l"):
            return ("contraction",) if letter == TWO_LETTERS[mode[1]] else ()
        if mode == "' prefix":
            if kind != LETTER or character in self._one_letter:
                return ()
            return (f"not {TWO_LETTERS[letter]}",) if letter in TWO_LETTERS else ("letter",)
        if mode.startswith("not "):
            return ("letter",) if kind == LETTER and letter != mode[4:] else ()
        if mode.startswith("number"):
            count = int(mode[6:])
            return (f"number{count + 1}",) if kind == NUMBER and count < self._digits else ()
        goes_on = _GOES_ON.get(mode, {})
        return (goes_on[kind],) if kind in goes_on else ()

    def _begin(self, mode, kind, character):
        if kind == LETTER:
            return ("letter",)
        if kind == NUMBER:
            return ("number1",)
        if kind == NEWLINE:
            return ("newline",)
        if kind == OTHER:
            return ("one other", "'", "' prefix") if character == "'" else ("one other", "prefix")
        alone = ("prefix", "space other", "blank") if character == " " else ("prefix", "tab")
        if mode == "after spaces":
            return alone
        return (*alone, "spaces") if mode == "after newline" else (*alone, "spaces", "lines")

    def fits(self, mode, begun):
        """By the kinds of the characters, and those beyond ASCII that are not as others of their kind."""
        odd = [c for c in self._one_letter if c.encode().startswith(begun)]
        kinds = self._kinds.beginning(begun)
        return any(self._read(mode, kind, None) for kind in kinds) or any(self.read(mode, c) for c in odd)

    def ended(self, mode):
        """Where what has been read may be all of the pre-token."""
        if mode.startswith("number"):
            return (BEGINS,) if int(mode[6:]) == self._digits else ("after number",)
        if mode.startswith("not "):
            return ("after letter",)
        return (_ENDS[mode],) if mode in _ENDS else ()

    def last(self, mode):
        """Behind a pre-token, but for white space that something must follow."""
        return mode in _NOT and mode not in ("after blank", "after tab")
