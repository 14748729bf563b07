"""Word models: the pool equals a loop over words, and cached decoding the full forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from lmlab.kernels.compaction import compact
from lmlab.kernels.span_attention import span_attention, span_attention_reference
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.words import Slots, WordEncoder, word_model
from lmlab.text.words import Words
from tests.parameters import moved

TEXT = b"It was a small  word, and anotherverylongwordthatiscut, then more."


@functools.cache
def model_of(symbols):
    tokenizer = Words(max_bytes=8 - symbols, symbols=symbols)
    backbone = word_model(tokenizer, 32, 48, 2, 2, 1, transformer(1, 48, 64, n_heads=2))
    model = LanguageModel(tokenizer.vocab_size, backbone)
    return tokenizer, model, moved(init(model, jax.random.key(0)))


def test_span_attention_equals_the_reference():
    rng = np.random.default_rng(0)
    span = np.repeat(np.arange(1, 30), rng.integers(1, 7, 29))[None, :61]
    span[:, -5:] = 0
    q, k, v = rng.normal(size=(3, 1, 61, 2, 4)).astype(np.float32)
    expected, found = span_attention_reference(q, k, v, span), span_attention(q, k, v, span, 6)
    np.testing.assert_allclose(found[:, :-5], expected[:, :-5], atol=1e-6)
    assert jnp.isfinite(found).all()


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_pool_equals_a_loop_over_words(outputs):
    pool = WordEncoder(16, outputs * 24, 2, 24, 2, 6, outputs)
    rng, L, C = np.random.default_rng(1), 40, 20
    h = rng.normal(size=(1, L, 16)).astype(np.float32)
    segments = np.r_[np.full(22, 1), np.full(14, 2), np.zeros(4)].astype(np.int32)[None]
    start = np.zeros((1, L), bool)
    start[0, [0, 1, 4, 8, 9, 17, 22, 25, 31]] = True  # one span is longer than the pool sees, and one ends nowhere
    c = compact(jnp.asarray(start), C)
    params = moved(jax.jit(pool.init)(jax.random.key(0), h, None, c, segments))
    found = jax.jit(pool.apply)(params, h, None, c, segments)
    edges = np.flatnonzero(start[0])
    alone = jax.jit(lambda x: pool.apply(params, x, jnp.ones(x.shape[:2], jnp.int32), method="_encode"))
    for i, end in enumerate(edges):
        first = end if end in (0, 22) else max(edges[i - 1] + 1, end - 5)
        y = alone(h[:, first : end + 1])[0]
        read = [min(j, len(y) - 1) for j in range(outputs - 1)] + [len(y) - 1]
        np.testing.assert_allclose(found[0, i], (y[jnp.array(read)] @ params["params"]["out"]).reshape(-1), atol=1e-5)
    assert (found[0, len(edges) :] == 0).all()


def test_a_chunks_vectors_go_to_its_first_positions():
    unpool = Slots(3, 8, 2)
    start = jnp.array([[True, False, False, True, True, False]])
    c, h, z = compact(start, 6), jnp.zeros((1, 6, 3)), jax.random.normal(jax.random.key(0), (1, 6, 8))
    out = jax.random.normal(jax.random.key(1), (4, 3))
    y = unpool.apply({"params": {"out": out}}, z, h, None, c, jnp.ones((1, 6), jnp.int32))[0]
    first, second = z[0, :, :4] @ out, z[0, :, 4:] @ out
    expected = [first[0], second[0], jnp.zeros(3), first[1], first[2], second[2]]
    np.testing.assert_allclose(y, jnp.stack(expected), atol=1e-6)


def test_a_word_is_predicted_from_its_own_bytes_and_the_words_before():
    """Nothing later than a byte moves its logits; the words before do, though the decoder sees only its own."""
    tokenizer, model, params = model_of(3)
    ids = np.concatenate([[tokenizer.bos], tokenizer.encode(TEXT)])[None]
    apply = jax.jit(lambda ids: model.apply(params, ids).logits)
    logits, t = apply(ids), 20
    other = ids.copy()
    other[0, t + 1 :] = 65
    np.testing.assert_allclose(apply(other)[0, : t + 1], logits[0, : t + 1], atol=1e-5)
    other = ids.copy()
    other[0, 1] = 65
    assert np.abs(apply(other)[0, t:] - logits[0, t:]).max(-1).min() > 1e-5


@pytest.mark.parametrize("symbols", [1, 3])
def test_cached_decoding_equals_the_full_forward_pass(symbols):
    tokenizer, model, params = model_of(symbols)
    rng, lengths, width = np.random.default_rng(0), np.array([1, 9, 24, 17]), 24
    texts = [np.concatenate([[tokenizer.bos], tokenizer.encode(TEXT[i:])])[:44] for i in (0, 3, 7)]
    texts.append(rng.integers(0, tokenizer.vocab_size, 44))  # symbols anywhere, words longer than the limit
    tokens = np.stack(texts).astype(np.int32)
    full = jax.jit(model.apply)(params, tokens).logits
    valid = np.arange(width) < lengths[:, None]
    prefill = jax.jit(functools.partial(model.apply, method="prefill"))
    logits, cache = prefill(params, np.where(valid, tokens[:, :width], 0), valid, model.init_cache(4, 44))
    np.testing.assert_allclose(np.where(valid[..., None], logits - full[:, :width], 0), 0, atol=5e-5)
    step = jax.jit(functools.partial(model.apply, method="step"))
    for i in range(20):
        at = lengths + i
        logits, cache = step(params, tokens[np.arange(4), at], cache, np.ones(4, bool))
        np.testing.assert_allclose(logits, full[np.arange(4), at], atol=5e-5)


def test_a_fuller_row_than_planned_loses_its_last_words_only():
    tokenizer, model, params = model_of(3)
    ids = np.concatenate([[tokenizer.bos], tokenizer.encode(TEXT)])[None]
    tight = model.clone(backbone=model.backbone.clone(capacity=0.6))
    full, found = (jax.jit(m.apply)(params, ids) for m in (model, tight))
    lost = int(found.stages[0].overflow)
    assert lost > 0
    starts = np.flatnonzero(np.asarray(full.stages[0].start_BL)[0])
    before = starts[-lost]
    np.testing.assert_allclose(found.logits[0, :before], full.logits[0, :before], atol=1e-5)
