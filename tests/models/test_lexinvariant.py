"""Lexinvariance: names of tokens do not matter, draws are each row's own, and none of it has a vocabulary's size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.cipher import FROM, Cipher, cipher
from lmlab.models.build import transformer
from lmlab.models.language_model import count_parameters, init
from lmlab.models.lexinvariant import Lexinvariant
from lmlab.text.bytes import ByteTokenizer
from tests.parameters import moved
from tests.training import tiny

V = 40
MODEL = Lexinvariant(V, transformer(1, 16, 32, 2))
MIXED = MODEL.clone(share=0.5)
TOKENS = np.random.default_rng(0).integers(0, V, (2, 24))


@functools.cache
def params_of(model):
    return moved(init(model, jax.random.key(0)))


def logits(model, params, tokens, noise=None):
    rngs = None if noise is None else {"noise": jax.random.key(noise)}
    return np.asarray(jax.jit(model.apply)(params, tokens, rngs=rngs).logits)


def test_no_parameter_has_the_size_of_a_vocabulary():
    assert count_parameters(MODEL) == count_parameters(MODEL.clone(vocab_size=1000)) < count_parameters(MIXED)


def test_renamed_tokens_with_their_vectors_have_the_same_probabilities():
    """Exact: permuting ids and vectors permutes the logits."""
    key = np.random.default_rng(1).permutation(V)
    params = params_of(MIXED)
    renamed = jax.tree.map(lambda p: p, params)
    renamed["params"]["embedding"] = params["params"]["embedding"][np.argsort(key)]
    np.testing.assert_allclose(logits(MIXED, renamed, key[TOKENS])[..., key], logits(MIXED, params, TOKENS), atol=1e-5)


def test_every_row_draws_its_own_vectors_anew():
    same = np.stack([TOKENS[0], TOKENS[0]])
    first, again, other = (logits(MODEL, params_of(MODEL), same, noise) for noise in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0] - first[1]).max() > 0.1 and np.abs(first - other).max() > 0.1
    assert np.abs(logits(MODEL, params_of(MODEL), same) - logits(MODEL.clone(draw=1), params_of(MODEL), same)).max() > 0.1


def test_a_share_of_the_tokens_is_drawn():
    """Of the vectors of many rows, half are learned ones; of a standard model all."""

    def vectors(model, noise):
        return model.apply(params_of(MIXED), 50, rngs={"noise": jax.random.key(noise)}, method="_vectors_of")

    learned = np.asarray(vectors(MIXED, 0) == params_of(MIXED)["params"]["embedding"]).all(-1)
    assert 0.45 < learned.mean() < 0.55 and (learned.mean(0) < 0.9).all()
    standard = MODEL.clone(share=0.0)
    np.testing.assert_array_equal(
        logits(standard, params_of(MIXED), TOKENS, 3), logits(standard, params_of(MIXED), TOKENS)
    )


@pytest.mark.parametrize("model", [MODEL, MIXED], ids=["all", "half"])
def test_drawn_rows_do_not_see_the_future_or_one_another(model):
    later = TOKENS.copy()
    later[0, 15:] = (later[0, 15:] + 1) % V
    one, two = logits(model, params_of(model), TOKENS, 5), logits(model, params_of(model), later, 5)
    np.testing.assert_array_equal(one[0, :15], two[0, :15])
    np.testing.assert_array_equal(one[1], two[1])
    assert np.abs(one[0, 15:] - two[0, 15:]).max() > 0.01


def test_a_drawn_gradient_reaches_every_parameter():
    def loss(params):
        return jnp.sum(jnp.sin(MIXED.apply(params, TOKENS, rngs={"noise": jax.random.key(0)}).logits))

    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params_of(MIXED))))


def test_a_cipher_renames_bytes():
    text = "the cat sat, naïve".encode()
    found = cipher(text)
    assert found == cipher(text) != cipher(text, 1) and len(found) == len(text)
    assert len(set(zip(text, found))) == len(set(text)) == len(set(found)) and max(found) < 254


def test_the_cipher_s_bits_are_split_by_position(tmp_path):
    made = tiny.corpus(tmp_path)
    data = Data(bake(made, ByteTokenizer(), str(tmp_path / "cache")), 128, 4)
    model = Lexinvariant(256, transformer(1, 16, 32, 2))
    values = Cipher(max_bytes=2000)(model, init(model, jax.random.key(0)), data)
    assert values["plain_bpb"] == pytest.approx(8, abs=0.2)  # nothing is learned
    assert values["cipher_cost"] == pytest.approx(0, abs=0.05)
    assert {f"{k}_bpb/{n}" for k in ("plain", "cipher") for n in FROM[:3]} <= values.keys()
    assert "plain_bpb/256" not in values


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="between 0 and 1"):
        init(MODEL.clone(share=1.5), jax.random.key(0))
