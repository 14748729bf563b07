"""Encoders that see both ways: words apart within words, and joined by their vectors between them."""

import jax
import numpy as np
import pytest
from flax.linen import meta

from lmlab.errors import UserError
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.two_way import TwoWay, WithinWords
from lmlab.models.words import masked_word_model
from lmlab.text.words import Words
from tests.parameters import moved


def test_every_word_is_encoded_as_if_it_stood_alone():
    stack = TwoWay("T2", 16, 16, n_heads=2, rotary_dim=4, longest=7)
    within = WithinWords(stack, 5.0)
    rng = np.random.default_rng(0)
    tokens = np.array([[254, 1, 2, 3, 256, 4, 5, 256, 256, 6, 255, 254, 7, 256, 8, 8, 8, 8, 8, 8]], np.int32)
    segments = np.array([[1] * 11 + [2] * 9], np.int32)
    x = rng.normal(size=(1, 20, 16)).astype(np.float32)
    params = moved(jax.jit(within.init)(jax.random.key(0), x, tokens, segments))
    y = jax.jit(lambda x: within.apply(params, x, tokens, segments)[0])(x)
    whole = TwoWay("T2", 16, 16, n_heads=2, rotary_dim=4)
    for a, b in zip([0, 4, 7, 8, 11, 13], [4, 7, 8, 11, 13, 20]):
        ones = np.ones((1, b - a), np.int32)
        alone, _ = jax.jit(whole.apply)({"params": params["params"]["stack"]}, x[:, a:b], None, ones)
        np.testing.assert_allclose(y[:, a:b], alone, atol=1e-5)


def test_a_hidden_word_is_read_off_the_words_on_both_sides_but_not_off_another_document():
    tokenizer = Words(max_bytes=5)
    model = LanguageModel(258, masked_word_model(tokenizer, 16, 2, (1, 16), (1, 16), 1))
    params = moved(init(model, jax.random.key(0)))
    tokens = np.concatenate([[254], tokenizer.encode(b"one two three"), [255, 254], tokenizer.encode(b"other")])[None]
    segments = np.where(np.arange(tokens.shape[1]) < 19, 1, 2)[None].astype(np.int32)
    hidden = slice(6, 9)
    tokens[0, hidden] = 257
    apply = jax.jit(lambda tokens: model.apply(params, tokens, segments).logits[0, hidden])
    logits = apply(tokens)
    for at, seen in ((1, True), (13, True), (22, False)):  # a byte of "one", of "three", of the other document
        other = tokens.copy()
        other[0, at] = 65
        assert (np.abs(apply(other) - logits).max() > 1e-5) == seen


def test_only_attention_sees_both_ways():
    with pytest.raises(UserError, match="layers t or T"):
        TwoWay("m1", 8).init(jax.random.key(0), np.zeros((1, 4, 8)), None, np.ones((1, 4), np.int32))
