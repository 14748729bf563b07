"""Splitting by cached steps equals choosing from full forward passes, and adds nothing but hyphens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.decoding.hyphens import decompound
from lmlab.errors import UserError
from lmlab.models.encoder_decoder import t5
from lmlab.models.language_model import init
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.compounds import joined
from tests.parameters import moved

MODEL, BYTES = t5(256, (1, 1), 16, 32, 2, 8), ByteTokenizer()
WORDS = [b"football", b"a", b"whole-some", b"zzzzzzzzzzz", "größe".encode()]


@pytest.fixture(scope="module")
def params():
    params = moved(init(MODEL, jax.random.key(0)), 0.3)
    head = params["params"]["head"]
    params["params"]["head"] = head.at[:, ord("-")].add(2 * jnp.std(head))  # hyphens here and there
    return params


def by_forward(params, word):
    """The same, a full forward pass for every place."""
    apply = jax.jit(MODEL.apply)
    source = np.zeros((1, 32), np.int32)
    source[0, : len(word) + 1] = [*word, BYTES.eos]
    read = (np.arange(32) <= len(word)).astype(np.int32)[None]
    written, found = [BYTES.bos], b""
    for at, letter in enumerate(word):
        for _ in range(2):
            tokens = np.zeros((1, 64), np.int32)
            tokens[0, : len(written)] = written
            logits = apply(params, tokens, np.ones_like(tokens), source, read).logits[0, len(written) - 1]
            begins = at and letter & 0xC0 != 0x80  # another character
            if begins and written[-1] != ord("-") and logits[ord("-")] > logits[letter]:
                written.append(ord("-"))
                found += b"-"
            else:
                break
        written.append(letter)
        found += bytes([letter])
    return found


def test_cached_steps_equal_full_passes(params):
    found = decompound(MODEL, params, WORDS, BYTES, rows=2)
    assert found == [by_forward(params, joined(word)) for word in WORDS]
    assert [joined(word) for word in found] == [joined(word) for word in WORDS]
    assert any(b"-" in word for word in found) and any(b"-" not in word for word in found)


class Everywhere:
    """Would rather write a hyphen than any letter."""

    def apply(self, params, tokens, *inputs, method):
        return () if method == "read" else (jnp.broadcast_to(jax.nn.one_hot(ord("-"), 256), (len(tokens), 256)), ())


def test_no_hyphen_cuts_a_character_in_two():
    found = decompound(Everywhere(), jnp.zeros(1), ["größe".encode(), "ኢትዮ".encode(), b"ab"], BYTES)
    assert [word.decode() for word in found] == ["g-r-ö-ß-e", "ኢ-ት-ዮ", "a-b"]


def test_a_word_that_is_too_long_is_refused(params):
    with pytest.raises(UserError, match="fewer than 32 bytes; one has 40"):
        decompound(MODEL, params, [b"x" * 40], BYTES)
