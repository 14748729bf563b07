"""Kinds of characters, as a pre-tokenizer has them: letters, numbers, white space and others."""

import functools

LETTER, NUMBER, OTHER, SPACE, NEWLINE = "letter", "number", "other", "space", "newline"


def starts(pre_tokenizer, text):
    """Where the pre-tokens begin that the library cuts a text into, in characters."""
    return {span[0] for _, span in pre_tokenizer.pre_tokenize_str(text)}


class Kinds:
    """Kinds of characters by `classify`: characters -> {character: kind}, which is asked for many at a time."""

    def __init__(self, classify):
        self._classify, self._of = classify, {}
        self.beginning = functools.cache(self._beginning)

    def of(self, character):
        """Of one character."""
        if character not in self._of:
            self._of.update(self._classify([character]))
        return self._of[character]

    def _beginning(self, begun):
        """Kinds of the characters beyond ASCII that begin with these bytes."""
        if begun[0] > 0xF0:  # planes 4 and up have neither letters nor numbers nor spaces
            return frozenset([OTHER])
        further = [begun + bytes([byte]) for byte in range(0x80, 0xC0)]
        if len(begun) + 1 == (2 if begun[0] < 0xE0 else 3 if begun[0] < 0xF0 else 4):
            kinds = self._classify([data.decode() for data in further if data.decode("utf-8", "ignore")])
            self._of.update(kinds)
            return frozenset(kinds.values())
        found, all_kinds = frozenset(), 4 if begun[0] < 0xF0 else 3  # plane 1 and up have no white space
        for data in further:
            if _begins(data) and len(found) < all_kinds:
                found |= self.beginning(data)
        return found


def _begins(data):
    """Whether these bytes begin a character."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
