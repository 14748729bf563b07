"""MAGNET's chunker: scripts are read off the text causally, and each has a predictor and a prior of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.models.boundaries import SCRIPTS, ScriptBoundaries, running_script
from flax.linen import meta

TEXT = "Abc é! 12 привет, мир. नमस्ते दुनिया ok"


def encoded(text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)[None]


@pytest.mark.parametrize("text", ["বাংলা ভাষা", "తెలుగు", "हिन्दी"])
def test_scripts_of_devanagaris_type_are_one(text):
    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32)[None]
    scripts = np.asarray(running_script(tokens, np.ones_like(tokens)))[0]
    assert (scripts[1:] == SCRIPTS.index("devanagari")).all()  # the first byte alone tells nothing


def test_a_position_has_the_script_of_the_last_letter():
    tokens = encoded(TEXT)
    scripts = np.asarray(running_script(tokens, np.ones_like(tokens)))[0]
    at, last = 0, 0
    for letter in TEXT:
        at += len(letter.encode())
        if letter.isalpha():
            last = 2 if "\u0900" <= letter <= "\u097f" else 1 if "\u0400" <= letter <= "\u052f" else 0
        elif "\u0900" <= letter <= "\u097f":
            last = 2  # vowel signs
        assert scripts[at - 1] == last, letter


def test_a_document_begins_as_latin():
    tokens = np.concatenate([encoded("мир"), encoded("1 2")], axis=1)
    segments = np.r_[np.ones(6), np.full(3, 2)][None].astype(np.int32)
    np.testing.assert_array_equal(running_script(tokens, segments)[0], [1] * 6 + [0] * 3)


def made(seed=0):
    tokens = encoded(TEXT)
    h = jnp.asarray(np.random.default_rng(seed).normal(size=(*tokens.shape, 8)), jnp.float32)
    chunker, segments = ScriptBoundaries(8, 16), np.ones_like(tokens)
    params = meta.unbox(jax.jit(chunker.init)(jax.random.key(0), h, tokens, segments))
    params["params"]["bo"] = jnp.zeros(3)  # so that there are boundaries
    return chunker, params, h, tokens, segments


def test_stepping_equals_the_whole_text():
    chunker, params, h, tokens, segments = made()
    whole = jax.jit(chunker.apply)(params, h, tokens, segments)
    step = jax.jit(lambda h_BD, token, cache: chunker.apply(params, h_BD, token, cache, method="step"))
    n = 20  # inside a Cyrillic letter
    valid = np.arange(tokens.shape[1])[None] < n
    cache = chunker.apply(params, h, tokens, valid, method="cache_after")
    for t in range(n, tokens.shape[1]):
        start, p, cache = step(h[:, t], tokens[:, t], cache)
        np.testing.assert_array_equal(start, whole.start_BL[:, t])
        np.testing.assert_allclose(p, whole.probability_BL[:, t], atol=1e-6)


def test_each_script_has_a_predictor_of_its_own():
    chunker, params, h, tokens, segments = made()
    scripts = np.asarray(running_script(tokens, segments))
    jacobian = jax.jit(jax.jacrev(lambda params: chunker.apply(params, h, tokens, segments).probability_BL))(params)
    moves = np.abs(jacobian["params"]["bo"]) > 0
    np.testing.assert_array_equal(moves, scripts[..., None] == np.arange(len(SCRIPTS)))


def test_each_script_has_a_prior_of_its_own():
    """Of the same boundaries, those that fit the priors of their scripts cost less than under priors exchanged."""
    chunker, _, _, _, _ = made()
    tokens = np.concatenate([encoded("ab" * 100), encoded("же" * 50)], axis=0)
    segments = np.ones_like(tokens)
    start = np.stack([np.arange(200) % 2 == 1, np.arange(200) % 10 == 9])
    p = start.astype(np.float32)
    cost = lambda priors: ScriptBoundaries(8, 16, priors=priors).auxiliary(start, p, tokens, segments)  # noqa: E731
    assert cost((0.5, 0.1, 0.3)) < 0.1 < cost((0.1, 0.5, 0.3))
    assert len(chunker.priors) == len(SCRIPTS)
