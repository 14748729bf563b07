"""BLT's parts on their own: n-grams keep to their document, patches read their last bytes, the threshold finds its
quantile, and caches of words deeper than their rings."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.models.build import blt
from lmlab.models.chunkers import FixedStride, Whitespace
from lmlab.models.entropy import EntropyMarker, entropy_starts
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.marks import AtMarks, Marked
from lmlab.models.ngrams import WithNgrams
from lmlab.models.stack import Stack


def moved(model):
    """Parameters off their special starting points."""
    start = init(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), start)


def small(chunker, longest=128):
    return blt((1, 1, 1), (16, 32), (32, 32), chunker, n_heads=2, window=8, longest=longest)


def test_ngrams_do_not_reach_into_the_document_before():
    """A document in a packed row is embedded as if it stood alone."""
    model = LanguageModel(256, WithNgrams(Stack("t1", 16, n_heads=2, rotary_dim=8), (2, 3), 97))
    params = moved(model)
    tokens = np.random.default_rng(0).integers(0, 256, (1, 20)).astype(np.int32)
    segments = np.where(np.arange(20) < 9, 1, 2)[None]
    apply = jax.jit(lambda *given: model.apply(params, *given).logits)
    packed = apply(tokens, segments)
    np.testing.assert_allclose(packed[:, 9:], apply(tokens[:, 9:]), atol=1e-5)
    assert np.abs(packed[:, 9:11] - apply(tokens)[:, 9:11]).max() > 1e-3


def test_cached_decoding_of_patches_longer_than_the_ring():
    """Ordinary words overflow a ring of 3 bytes; prompts that end anywhere fill it."""
    model = LanguageModel(256, small(Whitespace(), longest=3))
    params = moved(model)
    rng, L, width = np.random.default_rng(1), 30, 16
    tokens = np.where(rng.random((4, L)) < 0.12, 32, rng.integers(97, 123, (4, L))).astype(np.int32)
    full = jax.jit(model.apply)(params, tokens).logits
    lengths = np.array([1, 6, 11, 16])
    valid = np.arange(width) < lengths[:, None]
    prefill = jax.jit(functools.partial(model.apply, method="prefill"))
    logits, cache = prefill(params, tokens[:, :width], valid, model.init_cache(4, L))
    np.testing.assert_allclose(np.where(valid[..., None], logits - full[:, :width], 0), 0, atol=2e-5)
    step = jax.jit(functools.partial(model.apply, method="step"))
    for i in range(L - width):
        logits, cache = step(params, tokens[np.arange(4), lengths + i], cache)
        np.testing.assert_allclose(logits, full[np.arange(4), lengths + i], atol=2e-5)


def test_cached_decoding_by_entropy_in_the_middle_of_its_range():
    """A threshold that half of the entropies pass, a rise and a longest patch: all three decide somewhere."""
    entropy_model = LanguageModel(256, Stack("T1", 16, 32, n_heads=2, rotary_dim=8, window=8))
    marker = EntropyMarker(entropy_model, 4.5, 5.0, 0.02, 5)
    model = LanguageModel(256, Marked(marker, small(AtMarks(0, 4.5))))
    params = moved(model)
    tokens = np.random.default_rng(1).integers(0, 256, (3, 30)).astype(np.int32)
    output = jax.jit(model.apply)(params, tokens)
    assert 0.2 < output.stages[0].start_BL.mean() < 0.8
    cache = model.init_cache(3, 30)
    step = jax.jit(functools.partial(model.apply, method="step"))
    for t in range(30):
        logits, cache = step(params, tokens[:, t], cache)
        np.testing.assert_allclose(logits, output.logits[:, t], atol=2e-5)


def test_no_patch_is_longer_than_the_longest():
    H = jnp.asarray(np.random.default_rng(0).random((4, 64)))
    starts = np.asarray(entropy_starts(H, np.ones((4, 64), np.int32), 0.9, longest=7))
    gaps = np.concatenate([np.diff(np.flatnonzero(row)) for row in starts])
    assert gaps.max() == 7 and gaps.min() < 7


def test_the_threshold_learns_the_quantile_of_the_planned_length():
    """Its gradient is zero where one in N entropies lies above it, and points there from elsewhere."""
    marker = EntropyMarker(LanguageModel(256, Stack("t1", 16, n_heads=2, rotary_dim=8)), 4.0, weight=1.0)
    tokens = np.random.default_rng(0).integers(0, 256, (4, 64)).astype(np.int32)
    ones = np.ones_like(tokens)
    params = nn.meta.unbox(jax.jit(marker.init)(jax.random.key(0), tokens, ones))["params"]

    @jax.jit
    def slope(threshold):
        run = lambda t: marker.apply({"params": params | {"threshold": t}}, tokens, ones)[::-1]  # noqa: E731
        (_, level), gradient = jax.value_and_grad(run, has_aux=True)(threshold)
        return level.mean(), gradient[0]

    low, high = params["threshold"] - 1, params["threshold"] + 1
    for _ in range(30):
        middle = (low + high) / 2
        share, gradient = slope(middle)
        low, high = (middle, high) if gradient < 0 else (low, middle)
    assert share == pytest.approx(1 / 4, abs=0.02)
    assert slope(middle - 0.1)[1] < 0 < slope(middle + 0.1)[1]


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="2 times"):
        blt((1, 1, 1), (16, 48), (32, 32), FixedStride(4), n_heads=2)
