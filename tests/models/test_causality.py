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

ARMS = [f"{name}/{arm.name}" for name in experiment.names() for arm in experiment.load(name).arms]


@functools.cache
def model_of(path):
    """The arm's model with parameters moved off their special starting points, and its vocabulary."""
    found, arm = experiment.find(path)
    model = uncapped(found.resolve(arm, "smoke").model)

    @jax.jit  # one compilation: op by op it would be a hundred
    def moved():
        leaves, tree = jax.tree.flatten(init(model, jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        return jax.tree.unflatten(
            tree, [p + 0.05 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
        )

    return model, moved()


def text(model, shape, seed=0):
    """Bytes with white space among them, so that every chunker has something to find."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(97, 123, shape)
    return np.where(rng.random(shape) < 0.2, 32, letters).astype(np.int32) % model.vocab_size


@pytest.mark.parametrize("path", ARMS)
def test_no_gradient_from_the_future_or_other_documents(path):
    model, params = model_of(path)
    L, t = 40, 21
    tokens = text(model, (1, L))
    segments = np.where(np.arange(L) < 9, 1, 2)[None].astype(np.int32)  # a boundary at 9

    @jax.jit
    def influence(table, t):
        """|d logits[t] / d input embedding[s]| for every s."""

        def loss(extra):
            def embed_hook(next_fun, args, kwargs, context):
                out = next_fun(*args, **kwargs)
                whole = context.method_name == "embed_tokens" and not context.module.path  # not a model within it
                return out + extra if whole else out

            import flax.linen as nn

            with nn.intercept_methods(embed_hook):
                return jnp.sum(jnp.sin(model.apply(table, tokens, segments).logits[0, t]))

        return jnp.abs(jax.grad(loss)(jnp.zeros((1, L, model.backbone.d_model)))).sum((0, 2))

    seen = np.asarray(influence(params, t))
    assert (seen[t + 1 :] == 0).all()
    assert (seen[:9] == 0).all()
    assert seen[t] > 0 and seen[9:t].max() > 0


@pytest.mark.parametrize("path", ARMS)
def test_cached_decoding_equals_the_full_forward_pass(path):
    model, params = model_of(path)
    B, L, lengths = 3, 40, np.array([5, 17, 11])
    tokens = text(model, (B, L), seed=1)
    full = jax.jit(model.apply)(params, tokens).logits
    width = 24
    valid = np.arange(width) < lengths[:, None]
    prefill = jax.jit(functools.partial(model.apply, method="prefill"))
    logits, cache = prefill(params, np.where(valid, tokens[:, :width], 0), valid, model.init_cache(B, L))
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(logits[b, :n], full[b, :n], atol=2e-5)
    step = jax.jit(functools.partial(model.apply, method="step"))
    position = lengths.copy()
    while (position < L).any():
        active = position < L
        token = tokens[np.arange(B), np.minimum(position, L - 1)]
        logits, cache = step(params, token, cache, active)
        for b in np.flatnonzero(active):
            np.testing.assert_allclose(logits[b], full[b, position[b]], atol=2e-5)
        position += active


@pytest.mark.parametrize("path", ARMS)
def test_inactive_rows_keep_their_cache(path):
    model, params = model_of(path)
    cache = model.init_cache(2, 8)
    step = jax.jit(functools.partial(model.apply, method="step"))
    _, cache = step(params, text(model, (2,)), cache, np.array([True, True]))
    _, after = step(params, text(model, (2,), 1), cache, np.array([True, False]))
    row = lambda x: np.asarray(x).reshape(2, -1)[1]  # noqa: E731; attention merges rows and heads
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(row(a), row(b)), after, cache)
