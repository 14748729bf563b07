"""Byte2Word: a word's vector at its own places, read from the words around it."""

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.kernels.compaction import compact
from lmlab.models.byte2word import ToSpan, byte2word
from lmlab.models.language_model import count_parameters, init
from lmlab.text.bpe import BPE
from lmlab.text.words import WordsOfSubwords
from tests.parameters import moved


def test_a_chunks_vector_lies_on_its_span():
    start = jnp.array([[1, 0, 0, 1, 1, 0, 1, 0, 0, 1]], bool)
    segments = jnp.array([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2]])
    for slots in (10, 6):
        c = compact(start, slots)
        z = jnp.arange(1.0, slots + 1)[None, :, None]
        y = ToSpan(1).apply({}, z, jnp.zeros((1, 10, 1)), None, c, segments)[0, :, 0]
        np.testing.assert_array_equal(y, [1, 2, 2, 2, 3, 0, 4, 5, 5, 5])


def test_a_hidden_word_is_read_off_the_other_words_and_its_bytes_are_not_seen():
    tokenizer = WordsOfSubwords(max_bytes=6, subwords=BPE(300))
    model = byte2word(tokenizer, 16, 16, 2, 1)
    params = moved(init(model, jax.random.key(0)))
    tokens = np.concatenate([[254], tokenizer.encode(b"one two three"), [255, 254], tokenizer.encode(b"other")])[None]
    segments = np.where(np.arange(tokens.shape[1]) < 19, 1, 2)[None].astype(np.int32)
    hidden = slice(6, 9)
    tokens[0, hidden] = 257
    apply = jax.jit(lambda tokens: model.apply(params, tokens, segments).logits[0, hidden])
    logits = apply(tokens)
    assert logits.shape == (3, 300)
    for at, seen in ((1, True), (13, True), (22, False)):  # a byte of "one", of "three", of the other document
        other = tokens.copy()
        other[0, at] = 65
        assert (np.abs(apply(other) - logits).max() > 1e-5) == seen


def test_the_embedding_is_a_tenth_of_the_subwords():
    """What stands in place of a table of 30,522 subwords: bytes, positions, and the attention over them."""
    tokenizer = WordsOfSubwords(max_bytes=20, subwords=BPE(30_522))
    model = byte2word(tokenizer, 768, 2048, 12, 1)
    head = 30_522 * 768
    one_layer = 4 * 768**2 + 3 * 768 * 2048
    embedding = count_parameters(model) - head - 2 * one_layer
    assert embedding < 0.1 * 30_522 * 768
