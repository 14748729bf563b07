"""Generation equals choosing from the full forward pass step by step; samplers draw from what they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.decoding.generate import generate, stream
from lmlab.decoding.samplers import sample
from lmlab.errors import UserError
from lmlab.models.build import hierarchy
from lmlab.models.language_model import LanguageModel, init
from tests.parameters import moved


@pytest.fixture(scope="module")
def model():
    backbone = hierarchy(["m1", ["T1"], "m1"], (32, 64), (0, 64), n_heads=2, d_state=8, window=8)
    model = LanguageModel(256, backbone)
    return model, moved(init(model, jax.random.key(0)))


def test_greedy_equals_the_full_forward_pass(model):
    model, params = model
    prompts = [np.array([254, 97, 32, 98]), np.array([254]), np.arange(97, 110)]
    out = generate(model, params, prompts, 12, eos=-1, temperature=0.0)
    apply = jax.jit(model.apply)
    for prompt, row in zip(prompts, out, strict=True):
        tokens = np.zeros((1, 32), np.int32)  # causal: what lies behind does not matter
        tokens[0, : len(prompt)] = prompt
        for i, token in enumerate(row):
            n = len(prompt) + i
            assert int(jnp.argmax(apply(params, tokens).logits[0, n - 1])) == token
            tokens[0, n] = token


def test_rows_stop_at_eos(model):
    model, params = model
    prompt = [np.array([254, 97])]
    free = generate(model, params, prompt, 10, eos=-1, temperature=0.0)[0]
    eos = int(free[4])
    stopped = generate(model, params, prompt, 10, eos=eos, temperature=0.0)[0]
    first = list(free).index(eos)
    assert (stopped[:first] == free[:first]).all() and (stopped[first:] == eos).all()


def test_same_key_same_text(model):
    model, params = model
    draw = [generate(model, params, [np.array([254])], 16, -1, jax.random.key(k))[0] for k in (0, 0, 1)]
    assert (draw[0] == draw[1]).all() and (draw[0] != draw[2]).any()


def test_bad_requests(model):
    with pytest.raises(UserError):
        generate(*model, [np.array([], np.int32)], 4, -1)
    with pytest.raises(UserError):
        generate(*model, [np.array([1])], 0, -1)


def test_sampling_follows_the_nucleus():
    p = np.array([0.5, 0.25, 0.15, 0.1])
    logits = jnp.log(jnp.broadcast_to(p, (20_000, 4)))

    def frequencies(temperature, top_p):
        return np.bincount(sample(logits, jax.random.key(0), temperature, top_p), minlength=4) / 20_000

    np.testing.assert_allclose(frequencies(1.0, 1.0), p, atol=0.015)
    np.testing.assert_allclose(frequencies(1.0, 0.7), np.array([2, 1, 0, 0]) / 3, atol=0.015)
    sharp = p**2 / (p**2).sum()
    np.testing.assert_allclose(frequencies(0.5, 1.0), sharp, atol=0.015)
    assert (frequencies(0.0, 1.0) == [1, 0, 0, 0]).all()


@pytest.mark.parametrize("new", [1, 2, 16, 17, 18, 40])
def test_a_stream_gives_what_generation_gives(model, new):
    model, params = model
    prompt = np.array([254, 97, 98])
    whole = generate(model, params, [prompt], new, -1, jax.random.key(5))[0]
    pieces = list(stream(model, params, prompt, new, -1, jax.random.key(5)))
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    eos = int(whole[new // 2])
    stopped = np.concatenate(list(stream(model, params, prompt, new, eos, jax.random.key(5))))
    np.testing.assert_array_equal(stopped, whole[: list(whole).index(eos)])
