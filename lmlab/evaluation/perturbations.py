"""The five perturbations of H-Net's robustness table (arXiv 2507.07955, Table 3), after BLT (arXiv 2412.09871), and edits
at any rate.

They map bytes of UTF-8 text to bytes and work on its characters; a byte that is no UTF-8 counts as a character.
"""

import functools
import hashlib

import numpy as np


def _on_characters(function):
    @functools.wraps(function)
    def perturbation(data, *args):
        return function(data.decode("utf-8", "surrogateescape"), *args).encode("utf-8", "surrogateescape")

    return perturbation


@_on_characters
def _antspeak(text, rng):
    """Upper case, every character followed by a space."""
    return "".join(c.upper() + " " for c in text)


@_on_characters
def _drop(text, rng):
    """Each character vanishes with probability 0.1."""
    keep = rng.random(len(text)) >= 0.1
    return "".join(c for c, k in zip(text, keep, strict=True) if k)


@_on_characters
def _random_case(text, rng):
    """Each character upper or lower case, with probability 0.5 each."""
    upper = rng.random(len(text)) < 0.5
    return "".join(c.upper() if u else c.lower() for c, u in zip(text, upper, strict=True))


@_on_characters
def _repeat(text, rng):
    """A fifth of the characters stand two, three or four times."""
    times = np.where(rng.random(len(text)) < 0.2, rng.integers(2, 5, len(text)), 1)
    return "".join(c * n for c, n in zip(text, times, strict=True))


@_on_characters
def _upper_case(text, rng):
    """All upper case."""
    return text.upper()


PERTURBATIONS = {
    "antspeak": _antspeak,
    "drop": _drop,
    "random_case": _random_case,
    "repeat": _repeat,
    "upper_case": _upper_case,
}


def perturb(documents, name, seed=0):
    """Each document (bytes) under the perturbation `name`. What happens to a document depends on its content and
    `seed` alone, not on its neighbours."""
    return [PERTURBATIONS[name](data, _drawn_for(f"{name}:{seed}:", data)) for data in documents]


def edited(documents, rate, seed=0):
    """Each document (bytes) with each character edited with probability `rate`: gone, a letter in its place, or a
    letter behind it, each as likely and the letter of a to z. What a higher rate edits holds what a lower one does."""
    return [_edited(data, _drawn_for(f"edited:{seed}:", data), rate) for data in documents]


@_on_characters
def _edited(text, rng, rate):
    draw, kind = rng.random(len(text)), rng.integers(3, size=len(text))
    letter = [chr(ord("a") + i) for i in rng.integers(26, size=len(text))]
    as_edited = zip(text, draw < rate, kind, letter, strict=True)
    return "".join(("", new, c + new)[k] if hit else c for c, hit, k, new in as_edited)


def _drawn_for(name, data):
    digest = hashlib.sha256(name.encode() + data).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
