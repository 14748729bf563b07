"""Encoder-decoders of every experiment, at smoke scale: a causal decoder, examples of a packed row kept apart, padding
without effect, and cached decoding equal to the full forward pass."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab import experiment
from lmlab.models.encoder_decoder import EncoderDecoder, t5
from lmlab.models.language_model import init
from lmlab.models.manta import MANTa
from lmlab.models.t5 import relative_bucket
from tests.kinds import one_of_each, parts
from tests.parameters import moved


def structures():
    """What tells models apart, and the paths of their arms."""
    for name in experiment.names():
        for arm in experiment.load(name).at("smoke"):
            model = getattr(arm.run("smoke"), "model", None)
            if isinstance(model, EncoderDecoder):
                yield parts(model), f"{name}/{arm.name}"


ARMS = one_of_each(structures())


@functools.cache
def model_of(path):
    """The arm's model with parameters moved off their special starting points."""
    found, arm = experiment.find(path)
    model = found.resolve(arm, "smoke").model
    return model, moved(init(model, jax.random.key(0)), 0.05)


def text(shape, seed=0):
    """Bytes with white space among them."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.2, 32, rng.integers(97, 123, shape)).astype(np.int32)


@pytest.mark.parametrize("path", ARMS)
def test_the_decoder_is_causal_and_reads_the_source(path):
    model, params = model_of(path)
    S, L, t = 40, 12, 5
    source, target = text((1, S)), text((1, L), 1)
    width = model.decoder.d_model

    @jax.jit
    def influence(params, t):
        """|d logits[t] / d embedding| of every position of the target."""

        def loss(extra):
            def hook(next_fun, args, kwargs, context):
                out = next_fun(*args, **kwargs)
                return out + extra if context.method_name == "embed_tokens" and out.shape[1] == L else out

            with nn.intercept_methods(hook):
                return jnp.sum(jnp.sin(model.apply(params, target, None, source).logits[0, t]))

        return jnp.abs(jax.grad(loss)(jnp.zeros((1, L, width)))).sum((0, 2))

    seen = np.asarray(influence(params, t))
    assert (seen[t + 1 :] == 0).all() and (seen[: t + 1] > 0).all()
    apply = jax.jit(model.apply)
    logits = [apply(params, target, None, s).logits for s in (source, text((1, S), 2))]
    assert (np.abs(logits[0] - logits[1]).max(axis=(0, 2)) > 1e-3).all()


@pytest.mark.parametrize("path", ARMS)
def test_cached_decoding_equals_the_full_forward_pass(path):
    model, params = model_of(path)
    B, S, L = 3, 40, 12
    source, target, lengths = text((B, S)), text((B, L), 1), np.array([40, 17, 29])
    valid = np.arange(S) < lengths[:, None]
    source = np.where(valid, source, 0)
    full = jax.jit(model.apply)(params, target, None, source, valid.astype(np.int32)).logits
    cache = jax.jit(functools.partial(model.apply, method="read"), static_argnums=3)(params, source, valid, L)
    step = jax.jit(functools.partial(model.apply, method="step"))
    position = np.zeros(B, int)
    for i in range(2 * L):
        active = (position < L) & (np.arange(B) % 2 != i % 2)  # rows take turns
        token = target[np.arange(B), np.minimum(position, L - 1)]
        logits, cache = step(params, token, cache, active)
        for b in np.flatnonzero(active):
            np.testing.assert_allclose(logits[b], full[b, position[b]], atol=3e-5)
        position += active
    assert (position == L).all()


@pytest.mark.parametrize("path", ARMS)
def test_padding_changes_nothing(path):
    model, params = model_of(path)
    if isinstance(getattr(model.encoder, "front", None), MANTa):
        pytest.skip("a longer row has room for more blocks")
    source, target = text((1, 24)), text((1, 12), 1)
    ones = lambda x: np.ones_like(x)  # noqa: E731
    apply = jax.jit(model.apply)
    short = apply(params, target, ones(target), source, ones(source)).logits
    pad = lambda x, n: np.pad(x, ((0, 0), (0, n)))  # noqa: E731
    padded = pad(target, 4), pad(ones(target), 4), pad(source, 24), pad(ones(source), 24)
    np.testing.assert_allclose(apply(params, *padded).logits[:, :12], short, atol=3e-5)


def test_packed_examples_are_kept_apart():
    model = t5(288, (2, 2), 32, 64, 4, 8)
    params = init(model, jax.random.key(0))
    source, target = text((2, 20)), text((2, 8), 1)
    apply = jax.jit(model.apply)
    alone = apply(params, target, None, source).logits
    ids = lambda n: np.repeat([[1, 2]], n, axis=1).astype(np.int32)  # noqa: E731; n times 1, then n times 2
    packed = apply(params, target.reshape(1, -1), ids(8), source.reshape(1, -1), ids(20)).logits
    np.testing.assert_allclose(packed.reshape(alone.shape), alone, atol=2e-5)


def test_rematerialised_blocks_give_the_same_gradient():
    model = t5(288, (2, 2), 32, 64, 4, 8)
    params = init(model, jax.random.key(0))
    source, target = text((2, 20)), text((2, 8), 1)

    def gradient(model):
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(p, target, None, source).logits))))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradient(model), gradient(model.rematerialised())
    )


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_buckets(bidirectional):
    """Exact near by, shared far away, the same for traced positions; a causal bias does not tell what it never sees."""
    distance = np.arange(-300, 301)
    bucket = relative_bucket(distance, bidirectional)
    np.testing.assert_array_equal(bucket, jax.jit(lambda d: relative_bucket(d, bidirectional))(distance))
    behind = bucket[:301][::-1]  # of keys 0, 1, 2, .. positions back
    exact = 8 if bidirectional else 16
    assert behind[:exact].tolist() == list(range(exact)) and (np.diff(behind) >= 0).all()
    assert behind[128] == behind[300] == (15 if bidirectional else 31)
    ahead = bucket[301:]
    assert (ahead > 15).all() if bidirectional else (ahead == 0).all()
