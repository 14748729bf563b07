"""A decoder within chunks: each chunk as if it stood alone, and cached decoding equal to the full forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.models.build import hierarchy
from lmlab.models.chunkers import FixedStride, Whitespace
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.stack import Stack
from lmlab.models.unpool import Repeat
from lmlab.models.within import WithinChunks
from tests.parameters import moved


@pytest.mark.parametrize("layout", ["T2", "m2"])
def test_every_chunk_is_computed_as_if_it_stood_alone(layout):
    model = WithinChunks(Stack(layout, 32, 64, n_heads=2, rotary_dim=8, d_state=8), 8)
    rng, L = np.random.default_rng(0), 30
    x = rng.normal(size=(1, L, 32)).astype(np.float32)
    tokens, segments = np.zeros((1, L), np.int32), np.r_[np.full(13, 1), np.full(12, 2), np.full(5, 0)][None]
    start = (rng.random((1, L)) < 0.3) & (segments > 0)
    start[0, [0, 13]] = True
    params, apply = moved(jax.jit(model.init)(jax.random.key(0), x, tokens, segments, start_BL=start)), jax.jit(model.apply)
    y, _ = apply(params, x, tokens, segments, start_BL=start)
    edges = [*np.flatnonzero(start[0]), 25]
    for a, b in zip(edges, edges[1:]):
        ones = np.ones((1, b - a), np.int32)
        first = np.arange(b - a)[None] == 0
        alone, _ = apply(params, x[:, a:b], tokens[:, a:b], ones, start_BL=first)
        np.testing.assert_allclose(y[:, a:b], alone, atol=1e-5)


@pytest.mark.parametrize("layout", ["T1", "m1"])
@pytest.mark.parametrize("chunker", [FixedStride(5), Whitespace()], ids=["stride", "words"])
def test_cached_decoding_equals_the_full_forward_pass(layout, chunker):
    backbone = hierarchy(["T1", ["T1"], layout], (32, 64), (64, 64), 2, 16, 8, chunker=lambda *_: chunker, unpool=Repeat)
    backbone = backbone.clone(decoder=WithinChunks(backbone.decoder, 8))
    model = LanguageModel(256, backbone)
    params = moved(init(model, jax.random.key(0)))
    rng, L = np.random.default_rng(1), 33
    tokens = np.where(rng.random((3, L)) < 0.25, 32, rng.integers(97, 123, (3, L))).astype(np.int32)
    full = jax.jit(model.apply)(params, tokens).logits
    lengths = np.array([1, 7, 20])
    valid = np.arange(20) < lengths[:, None]
    prefill = jax.jit(functools.partial(model.apply, method="prefill"))
    logits, cache = prefill(params, tokens[:, :20], valid, model.init_cache(3, L))
    np.testing.assert_allclose(np.where(valid[..., None], logits - full[:, :20], 0), 0, atol=2e-5)
    step = jax.jit(lambda t, c: model.apply(params, t, c, method="step"))
    for i in range(L - 20):
        at = lengths + i
        logits, cache = step(tokens[np.arange(3), at], cache)
        np.testing.assert_allclose(logits, full[np.arange(3), at], atol=2e-5)


def test_flops_are_those_of_the_longest_chunk():
    stack = Stack("T1", 32, 64, n_heads=2)
    assert WithinChunks(stack, 8).flops(1024) == stack.flops(8)
    assert jnp.isfinite(sum(WithinChunks(stack, 8).flops(4).values()))
