"""Capacities: exact equals full in values, gradients and memory; overflow is harmless; steps over many rows."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.models import attention
from lmlab.models.build import hierarchy
from lmlab.models.hierarchy import FULLEST, uncapped
from lmlab.models.language_model import LanguageModel, init
from lmlab.objectives.next_token import NextToken
from tests.parameters import moved

ONE_STAGE = dict(layout=["m1", ["T1"], "m1"], d_model=(32, 64), d_ff=(0, 64))
TWO_STAGE = dict(layout=["m1", ["T1m1", ["T1"], "m1"], "m1"], d_model=(32, 32, 64), d_ff=(0, 64, 64))


def build(shape, capacity):
    backbone = hierarchy(**shape, n_heads=2, d_state=8, window=8, target=3.0, capacity=capacity)
    return LanguageModel(256, backbone)


def batch_of(tokens):
    ones = np.ones(tokens.shape)
    segments = np.where(np.arange(tokens.shape[1]) < 9, 1, 2)[None].repeat(len(tokens), 0)
    return {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, 1),
        "segment_ids": segments.astype(np.int32),
        "weights": ones.astype(np.float32),
        "target_bytes": ones.astype(np.int32),
    }


def loss_and_gradient(model):
    def loss(params, batch):
        total, weight, metrics = NextToken()(model, params, batch, None)
        return total / weight, metrics

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("shape", [ONE_STAGE, TWO_STAGE], ids=["1-stage", "2-stage"])
def test_exact_equals_full_whichever_capacity_is_chosen(shape):
    """Repeated bytes start few chunks, random ones many: either branch is taken, to the same result."""
    full, L = build(shape, None), 48
    params = moved(init(full, jax.random.key(0)))
    random = np.random.default_rng(0).integers(0, 256, (4, L))
    texts = [np.where(np.arange(L) < share * L, random, 97).astype(np.int32) for share in (0.25, 1.0)]
    forward = jax.jit(lambda tokens: [s.start_BL for s in full.apply(params, tokens).stages])
    counts = [[int(s.sum(1).max()) for s in forward(tokens)] for tokens in texts]
    shares = tuple((3 * (few + 3) / L,) for few in counts[0])
    exact = build(shape, (*shares, None))
    ours, theirs = loss_and_gradient(exact), loss_and_gradient(full)
    chosen = []
    for tokens in texts:
        (value, metrics), gradient = ours(params, batch_of(tokens))
        (expected, _), expected_gradient = theirs(params, batch_of(tokens))
        chosen.append(int(metrics["stage0/slots"]))
        assert metrics["stage0/overflow"] == 0
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), gradient, expected_gradient)
    assert chosen == [4 * n for n in exact.backbone.slots(L)] and chosen[0] < chosen[1]


def test_rows_that_share_slots_need_those_of_their_mean():
    """Rows of few and of many chunks, joined in twos: alike pairs fit where the fuller rows alone would not, unless one row
    has more than `FULLEST` of its share."""
    L = 96
    random = np.random.default_rng(0).integers(0, 256, (4, L))

    def slots(factor, random_bytes):
        model = build(ONE_STAGE, ((factor, 2.2), None))
        params = moved(init(model, jax.random.key(0)))
        tokens = np.where(np.arange(L) < np.array(random_bytes)[:, None], random, 97).astype(np.int32)
        outer = jax.jit(model.apply)(params, tokens).stages[0]
        tight, wide, _ = model.backbone.slots(L)
        return np.asarray(outer.start_BL).sum(1), int(outer.slots) // 4, tight, wide

    (few, most, _, more), chosen, tight, _ = slots(1.25, [40, 88, 40, 88])
    assert few + most <= 2 * tight < most + more and chosen == tight
    _, chosen, _, wide = slots(1.25, [40, 40, 88, 88])
    assert chosen == wide
    (few, most, *_), chosen, tight, wide = slots(0.7, [0, 96, 0, 96])
    assert few + most <= 2 * tight and most > FULLEST[0] * tight and chosen == wide


def test_rows_do_not_share_slots_around_a_stage_that_may_overflow():
    """What finds no slot there is counted and lost row by row, as without an exact stage around it."""
    assert build(TWO_STAGE, ((1.0,), (1.0,), None)).backbone._fits(8, 64, None)[0].rows == 4
    fixed = build(TWO_STAGE, ((1.0,), 1.0, None))
    assert [fit.rows for fit in fixed.backbone._fits(8, 64, None)] == [1, 1]


def test_capacities_are_of_bytes_at_every_stage():
    """A capacity of 2 outside does not double what a capacity of 2 inside means."""
    model, L = build(TWO_STAGE, (2.0, 2.0, None)), 144
    tokens = np.random.default_rng(0).integers(0, 256, (2, L)).astype(np.int32)
    stages = jax.jit(model.apply)(moved(init(model, jax.random.key(0))), tokens).stages
    assert [int(s.slots) for s in stages] == [2 * 2 * L // 3, 2 * 2 * L // 9]


@pytest.mark.parametrize("rows, more", [(2, 1.7), (4, 1.5)], ids=["apart", "joined"])
def test_exact_keeps_the_residuals_of_the_smallest_branch_only(rows, more):
    """Temporary memory of the gradient stays near that of one full branch, far from the sum of all. Where four rows share
    slots, branches but the last hold less, and so does their sum."""
    wide = dict(layout=["t1", ["T3"], "t1"], d_model=(32, 64), d_ff=(0, 256))
    shares = (0.3, 2.4, 2.7)
    batch = batch_of(np.zeros((rows, 256), np.int32))

    def temporaries(model):
        params = jax.eval_shape(lambda: init(model, jax.random.key(0)))
        return loss_and_gradient(model).lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    exact = temporaries(build(wide, (shares, None)))
    full = temporaries(build(wide, None))
    remat, nn.remat = nn.remat, lambda f, **_: f
    try:
        kept = temporaries(build(wide, (shares, None)))
    finally:
        nn.remat = remat
    assert exact < 1.3 * full, (exact, full)
    assert kept > more * exact, (kept, exact)


def test_overflow_is_harmless():
    """A capacity that overflows gives finite gradients, and those of the same model told not to start there."""
    tight, full = build(ONE_STAGE, (1.02, None)), build(ONE_STAGE, None)
    params = moved(init(full, jax.random.key(0)))
    tokens = np.random.default_rng(0).integers(0, 256, (2, 48)).astype(np.int32)
    (_, metrics), gradient = loss_and_gradient(tight)(params, batch_of(tokens))
    assert metrics["stage0/overflow"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    def fewer(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        if type(context.module).__name__ == "LearnedChunker" and context.method_name == "__call__":
            out = out._replace(start_BL=out.start_BL & (jnp.cumsum(out.start_BL, axis=1) <= 24))
        return out

    def loss(params):  # without the ratio loss, which reads the starts before any is lost
        with nn.intercept_methods(fewer):
            return jnp.sum(jnp.sin(full.apply(params, tokens).logits))

    expected = jax.jit(jax.grad(loss))(params)
    got = jax.jit(jax.grad(lambda params: jnp.sum(jnp.sin(tight.apply(params, tokens).logits))))(params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-4), got, expected)


def _keys(cache):
    """The blocks of keys of every attention in a cache."""
    if isinstance(cache, dict):
        return [cache["k"]] if "k" in cache else [k for c in cache.values() for k in _keys(c)]
    return [k for c in cache for k in _keys(c)] if isinstance(cache, list | tuple) else []


@pytest.mark.parametrize("window", [5, None])
def test_many_rows_step_as_the_full_forward(window, monkeypatch):
    """Nine rows, each with boundaries and a length of its own; caches of several blocks, and rings that wrap."""
    monkeypatch.setattr(attention, "CACHE_BLOCK", 4)
    shape = dict(layout=["T1", ["m1", ["T1"], "m1"], "m1"], d_model=(32, 32, 64), d_ff=(64, 64, 64))
    model = LanguageModel(256, hierarchy(**shape, n_heads=2, d_state=8, window=window, target=3.0))
    params = moved(init(model, jax.random.key(0)))
    rng = np.random.default_rng(3)
    B, L, lengths = 9, 32, rng.integers(1, 20, 9)
    tokens = np.repeat(rng.integers(0, 256, (B, L // 2)), 2, 1).astype(np.int32)
    output = jax.jit(model.apply)(params, tokens)
    assert len({int(n) for n in output.stages[0].start_BL.sum(1)}) > 2
    valid = np.arange(20) < lengths[:, None]
    prefill = jax.jit(functools.partial(model.apply, method="prefill"))
    _, cache = prefill(params, tokens[:, :20], valid, model.init_cache(B, L))
    sizes = [[block.shape[1] for block in blocks] for blocks in _keys(cache)]
    assert ([4, 4, 4, 4, 16] if window is None else [4, 1]) in sizes
    step = jax.jit(functools.partial(model.apply, method="step"))
    position = lengths.copy()
    while (position < L).any():
        active = (position < L) & (rng.random(B) < 0.8)
        logits, cache = step(params, tokens[np.arange(B), np.minimum(position, L - 1)], cache, active)
        for b in np.flatnonzero(active):
            np.testing.assert_allclose(logits[b], output.logits[b, position[b]], atol=1e-5)
        position += active


def test_uncapped_reaches_every_stage():
    model = uncapped(build(TWO_STAGE, ((0.75, 1.5), 1.5, None)))
    assert model.backbone.capacity is None and model.backbone.inner.capacity is None


def test_overflow_never_crosses_documents():
    """A document whose starts find no slot reads nothing of the document before it."""
    model = build(ONE_STAGE, (0.3, None))
    params, L = moved(init(model, jax.random.key(0))), 48
    tokens = np.random.default_rng(0).integers(0, 256, (1, L)).astype(np.int32)
    segments = np.where(np.arange(L) < 36, 1, 2)[None].astype(np.int32)

    def second(extra):
        def add(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            return out + extra if context.method_name == "embed_tokens" else out

        with nn.intercept_methods(add):
            output = model.apply(params, tokens, segments)
        return jnp.sum(jnp.sin(output.logits[:, 36:])), output.stages[0].overflow

    gradient, overflow = jax.jit(jax.grad(second, has_aux=True))(jnp.zeros((1, L, 32)))
    assert overflow > 0 and not np.any(gradient[:, :36]) and np.any(gradient[:, 36:])
