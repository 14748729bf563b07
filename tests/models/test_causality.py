"""Every causal model of every experiment, at smoke scale: no gradient from the future, documents kept apart, and
cached decoding equal to the full forward pass, with rows of different lengths."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab import experiment
from lmlab.models.hierarchy import uncapped
from lmlab.models.language_model import init
from tests.kinds import one_of_each, parts
from tests.parameters import moved


def causal():
    """What tells models apart, and the paths of their arms."""
    for name in experiment.names():
        for arm in experiment.load(name).at("smoke"):
            run = experiment.load(name).resolve(arm.name, "smoke")
            # Encoder-decoders: tests/models/test_encoder_decoder.py.
            if isinstance(run, experiment.Run) and run.corruption.continues:
                yield parts(uncapped(run.model)), f"{name}/{arm.name}"


ARMS = one_of_each(causal())


@functools.cache
def model_of(path):
    """The arm's model with parameters moved off their special starting points, and its vocabulary."""
    found, arm = experiment.find(path)
    model = uncapped(found.resolve(arm, "smoke").model)
    return model, moved(init(model, jax.random.key(0)), 0.05)


ROWS, LENGTH = 3, 40


@functools.cache
def forward_of(path):
    """Compiled: parameters, tokens, segment ids, t -> (|d logits[0, t] / d embeddings of a token along a random
    direction, in every table| [B, L], logits)."""
    model, _ = model_of(path)

    @jax.jit
    def forward(params, tokens_BL, segment_ids_BL, t):
        def loss(extra_BL):
            def add(next_fun, args, kwargs, context):
                out = next_fun(*args, **kwargs)
                if context.method_name != "embed_tokens":
                    return out
                return out + extra_BL[..., None] * jax.random.normal(jax.random.key(out.shape[-1]), out.shape[-1:])

            with nn.intercept_methods(add):
                logits_BLV = model.apply(params, tokens_BL, segment_ids_BL).logits
            return jnp.sum(jnp.sin(logits_BLV[0, t])), logits_BLV

        gradient_BL, logits_BLV = jax.grad(loss, has_aux=True)(jnp.zeros(tokens_BL.shape))
        return jnp.abs(gradient_BL), logits_BLV

    return forward


@functools.cache
def step_of(path):
    """Compiled: parameters, tokens, cache, active rows -> (logits, cache)."""
    return jax.jit(functools.partial(model_of(path)[0].apply, method="step"))


def text(model, shape, seed=0):
    """Bytes with white space among them, and ends of words for models of words, so that every chunker has something to
    find."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(97, 123, shape)
    symbols = rng.integers(min(256, model.vocab_size - 1), model.vocab_size, shape)
    tokens = np.where(rng.random(shape) < 0.2, 32, letters)
    return np.where(rng.random(shape) < 0.1, symbols, tokens).astype(np.int32) % model.vocab_size


@pytest.mark.parametrize("path", ARMS)
def test_no_gradient_from_the_future_or_other_documents_or_rows(path):
    model, params = model_of(path)
    t, segments = 21, np.ones((ROWS, LENGTH), np.int32)
    segments[0, 9:] = 2
    seen, _ = forward_of(path)(params, text(model, (ROWS, LENGTH)), segments, t)
    seen = np.asarray(seen)
    assert (seen[0, t + 1 :] == 0).all()
    assert (seen[0, :9] == 0).all() and (seen[1:] == 0).all()
    assert seen[0, t] > 0 and seen[0, 9:t].max() > 0


@pytest.mark.parametrize("path", ARMS)
def test_cached_decoding_equals_the_full_forward_pass(path):
    model, params = model_of(path)
    B, L, lengths = ROWS, LENGTH, np.array([5, 17, 11])
    tokens = text(model, (B, L), seed=1)
    _, full = forward_of(path)(params, tokens, np.ones((B, L), np.int32), 0)
    width = 24
    valid = np.arange(width) < lengths[:, None]
    prefill = jax.jit(functools.partial(model.apply, method="prefill"))
    logits, cache = prefill(params, np.where(valid, tokens[:, :width], 0), valid, model.init_cache(B, L))
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(logits[b, :n], full[b, :n], atol=2e-5)
    position = lengths.copy()
    while (position < L).any():
        active = position < L
        token = tokens[np.arange(B), np.minimum(position, L - 1)]
        logits, cache = step_of(path)(params, token, cache, active)
        for b in np.flatnonzero(active):
            np.testing.assert_allclose(logits[b], full[b, position[b]], atol=2e-5)
        position += active


@pytest.mark.parametrize("path", ARMS)
def test_inactive_rows_keep_their_cache(path):
    model, params = model_of(path)
    cache = model.init_cache(ROWS, LENGTH)
    _, cache = step_of(path)(params, text(model, (ROWS,)), cache, np.array([True, True, True]))
    _, after = step_of(path)(params, text(model, (ROWS,), 1), cache, np.array([True, False, True]))
    row = lambda x: np.asarray(x).reshape(ROWS, -1)[1]  # noqa: E731; attention merges rows and heads
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(row(a), row(b)), after, cache)
