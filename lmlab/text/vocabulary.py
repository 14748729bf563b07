"""What the tokens of a vocabulary are: letters of which script, numbers, signs, or pieces of characters."""

import collections
import unicodedata

import numpy as np

KINDS = ("letters", "numbers", "punctuation", "white space", "control", "mixed", "fragment", "special")


def script(character: str) -> str:
    """Script of a letter by the first word of its Unicode name: "latin", "cyrillic", "cjk", "hangul" .."""
    return unicodedata.name(character, "unknown").split()[0].split("-")[0].lower()


def kind(token: bytes) -> str:
    """One of `KINDS`. A space before a word is not counted as a part of it; marks belong to letters; "fragment": not
    whole characters; "special": no bytes."""
    if not token:
        return "special"
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return "fragment"
    if not text.strip():
        return "white space"
    found = {_class(c) for c in text.strip()}
    return found.pop() if len(found) == 1 else "mixed"


def _class(character):
    major = unicodedata.category(character)[0]
    if character.isspace():
        return "white space"
    return {"L": "letters", "M": "letters", "N": "numbers", "P": "punctuation", "S": "punctuation"}.get(major, "control")


def describe(tokens: list[bytes]) -> dict[str, float]:
    """Shares of a vocabulary in %: "kind/<kind>" of all tokens, "script/<script>" of those that are letters of one
    script, "script/several" of the others; "starts_word": share of the tokens of letters that begin with a space;
    "scripts": how many there are."""
    kinds = [kind(token) for token in tokens]
    letters = [token.decode().strip() for token, k in zip(tokens, kinds, strict=True) if k == "letters"]
    of = collections.Counter(_script_of(text) for text in letters)
    spaced = sum(token[:1] == b" " for token, k in zip(tokens, kinds, strict=True) if k == "letters")
    counts = collections.Counter(kinds)
    total, words = max(1, len(tokens)), max(1, len(letters))
    return {
        **{f"kind/{name}": 100 * counts[name] / total for name in KINDS},
        **{f"script/{name}": 100 * count / words for name, count in sorted(of.items())},
        "starts_word": 100 * spaced / words,
        "scripts": float(len(set(of) - {"several"})),
    }


def _script_of(text):
    found = {script(c) for c in text if unicodedata.category(c)[0] == "L"}
    return found.pop() if len(found) == 1 else "several"


def unreachable(tokenizer) -> np.ndarray:
    """Ids of whole characters that the tokenizer does not write for them alone: encode(decode(i)) != [i]."""
    ids = [i for i in range(tokenizer.vocab_size) if kind(tokenizer.token_bytes(i)) not in ("fragment", "special")]
    encoded = tokenizer.encode_batch([tokenizer.token_bytes(i) for i in ids])
    return np.array([i for i, e in zip(ids, encoded, strict=True) if e.tolist() != [i]], np.int64)
