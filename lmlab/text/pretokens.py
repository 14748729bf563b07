"""Where a pre-tokenizer may cut, told character by character, before the text that it looks ahead to is known.

A *mode* is what is known and guessed about the pre-token at hand. `read(mode, character)` gives the modes behind one
more character of it, none where the pre-tokenizer would have cut or the guess was wrong; `ended(mode)` those behind its
end, in each of which the next pre-token begins. `BEGINS` is the mode at the start of a text, `last(mode)` says whether
the text may end here, `fits(mode, begun)` whether some character that begins with the bytes `begun` may be read.
"""

import tokenizers

from lmlab.text.kinds import LETTER, NUMBER, OTHER, SPACE, Kinds, starts

BEGINS = "begins"


class Unsplit:
    """No pre-tokenizer: a text is one pre-token."""

    begins = frozenset({BEGINS, "over"})

    def read(self, mode, character):
        """Whatever comes."""
        return () if mode == "over" else ("text",)

    def fits(self, mode, begun):
        """All but at the end."""
        return mode != "over"

    def ended(self, mode):
        """Only where the text ends."""
        return ("over",)

    def last(self, mode):
        """Anywhere between characters."""
        return mode in self.begins


TWO_LETTERS = {"r": "e", "v": "e", "l": "l"}  # of 're, 've and 'll
ONE_LETTER = frozenset("stmd")


class GPT2:
    r"""GPT-2's: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

    It looks ahead in two places. Of white space before something else, all but the last character is one pre-token; the
    last belongs to what follows if it is a space, and is one on its own if not. An apostrophe is one, or goes on, unless
    a contraction follows.
    """

    # Behind a pre-token, and what may not follow: its own kind. Behind spaces: the last of them, or the end.
    begins = frozenset({BEGINS, "after letter", "after number", "after other", "after '", "after spaces", "after space"})

    def __init__(self):
        self._kinds = Kinds(self._classify)

    @staticmethod
    def _classify(characters):
        """Kinds, as the library's own tables have them: what it does not cut from one of a kind."""
        kinds, library = dict.fromkeys(characters, SPACE), tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        for kind, before in ((LETTER, "a"), (NUMBER, "1"), (OTHER, "!")):
            found = starts(library, "".join(f"{before}{character}\n" for character in characters))
            kinds.update({c: kind for i, c in enumerate(characters) if 3 * i + 1 not in found})
        return kinds

    def read(self, mode, character):
        """Modes: a kind (a run of it), "one space" (of what follows), "spaces", "last space" (on its own), "lone '",
        "'" and "'r" (a contraction so far), "contraction", "not e" (letters that would make it one)."""
        return self._read(mode, self._kinds.of(character), character)

    def _read(self, mode, kind, character):
        if mode in self.begins:
            return self._begin(mode, kind, character)
        if mode == "one space":
            return () if kind == SPACE else (kind,)
        if mode == "lone '":
            return (OTHER,) if kind == OTHER else ()
        if mode == "'":
            return ("contraction",) if character in ONE_LETTER else ("'" + character,) if character in TWO_LETTERS else ()
        if mode in ("'r", "'v", "'l"):
            return ("contraction",) if character == TWO_LETTERS[mode[1]] else ()
        if mode.startswith("not "):
            return (LETTER,) if kind == LETTER and character != mode[4:] else ()
        if mode == "spaces":
            return ("spaces",) if kind == SPACE else ()
        return (kind,) if kind == mode else ()

    def _begin(self, mode, kind, character):
        if mode == f"after {kind}":  # a run of a kind goes on as long as it can; white space on its own is the last
            return ()
        if mode == "after spaces":
            return () if kind != SPACE else ("one space",) if character == " " else ("last space",)
        if mode == "after '":
            if kind == OTHER or character in ONE_LETTER:
                return ()
            if character in TWO_LETTERS:
                return (f"not {TWO_LETTERS[character]}",)
        if kind == SPACE:
            return ("spaces", "one space") if character == " " else ("spaces", "last space")
        return ("lone '", "'") if character == "'" else (kind,)

    def fits(self, mode, begun):
        """By the kinds of the characters."""
        return any(self._read(mode, kind, None) for kind in self._kinds.beginning(begun))

    def ended(self, mode):
        """Where what has been read may be all of the pre-token."""
        if mode in ("one space", "'", "'r", "'v", "'l"):
            return ()
        if mode == "contraction":
            return (BEGINS,)
        if mode == "last space":
            return ("after space",)
        if mode == "lone '":
            return ("after '",)
        return ("after letter",) if mode.startswith("not ") else (f"after {mode}",)

    def last(self, mode):
        """Behind a pre-token, but for white space that something must follow."""
        return mode in self.begins and mode != "after space"
