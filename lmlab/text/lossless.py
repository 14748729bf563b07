"""Whether a tokenizer's definition keeps every byte of every text and writes a text in one way only, as far as its parts
tell: a text that was tried shows only what it happens to hold."""

from lmlab.text.tokenizer_formats import SPACE

# Pre-tokenizers that drop nothing, and such as do if they are told to.
ISOLATING = ("ByteLevel", "Metaspace", "Digits", "UnicodeScripts", "FixedLength")
SPLITTING = ("Split", "Punctuation")
LEFT_OUT = ("NFC", "Prepend")  # normalizers that lmlab does not apply
TRIMS = ("lstrip", "rstrip", "single_word")


def loss(definition):
    """What in a definition (of the `tokenizers` library, as a dict) loses text or is left to chance, or None."""
    model = definition["model"]
    if model.get("dropout"):
        return f"it draws its encodings by chance (dropout {model['dropout']})"
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            return f"its tokens carry marks that are not text ({name} {model[name]!r})"
    for token in definition.get("added_tokens") or ():
        if not token.get("special") and (trims := [name for name in TRIMS if token.get(name)]):
            return f"its added token {token['content']!r} depends on what stands around it ({', '.join(trims)})"
    for part in _parts(definition.get("normalizer"), "normalizers"):
        spaces = part["type"] == "Replace" and part.get("pattern") == {"String": " "} and part.get("content") == SPACE
        if part["type"] not in LEFT_OUT and not spaces:
            return f"its normalizer {part['type']} changes text"
    for part in _parts(definition.get("pre_tokenizer"), "pretokenizers"):
        removes = part.get("behavior") == "Removed" and not part.get("invert")  # inverted: what matches nothing is dropped
        if part["type"] not in ISOLATING and (part["type"] not in SPLITTING or removes):
            return f"its pre-tokenizer {part['type']} drops text"
    return None


def _parts(part, parts):
    if part is None:
        return []
    return [inner for p in part[parts] for inner in _parts(p, parts)] if part["type"] == "Sequence" else [part]
