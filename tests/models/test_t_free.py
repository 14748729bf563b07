"""T-FREE: causal, the same with and without a dictionary, decoded with a cache, and a dictionary gives back its words."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmlab.data.bake import bake, stream_of
from lmlab.data.trigrams import NextPatterns
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data, bits_per_byte
from lmlab.evaluation.dictionary import WithDictionary
from lmlab.models.build import transformer
from lmlab.models.language_model import count_parameters, init
from lmlab.models.t_free import RowOutput, TFree, dictionary, multi_hot
from lmlab.objectives.multi_label import NextPattern
from lmlab.text.whole_words import WordDictionary
from lmlab.text.trigrams import Trigrams
from tests.parameters import moved
from tests.training import tiny

TEXT = ("the cat sat on the mat, the dog under it; " * 3).encode()
TOKENIZER = WordDictionary(264, 3.0, 6).of_at_most([TEXT])
TRIGRAMS = Trigrams(64, 3, 1, 6)
TABLE = TRIGRAMS.table(TOKENIZER)
MODEL = TFree(TOKENIZER.vocab_size, transformer(1, 16, 32, 2), rows=64)
APPLY = jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def params():
    return moved(init(MODEL, jax.random.key(0)))


def test_no_parameter_has_the_size_of_a_dictionary():
    assert count_parameters(MODEL) == count_parameters(MODEL.clone(vocab_size=100_000))


def test_every_word_of_a_dictionary_is_read_from_its_pattern():
    logits = np.where(np.asarray(multi_hot(jnp.asarray(TABLE), 64)) > 0, 5.0, -5.0)
    scores = logits @ dictionary(TABLE, 64)["dictionary"]["patterns"]
    np.testing.assert_array_equal(scores.argmax(1), np.arange(len(TABLE)))


def test_nats_are_the_binary_cross_entropy_of_every_row():
    logits = jax.random.normal(jax.random.key(0), (1, 2, 64))
    nats = RowOutput(logits, ()).nats({"target_rows": TABLE[None, [260, 5]]})
    p = jax.nn.sigmoid(logits[0])
    for i, token in enumerate((260, 5)):
        on = np.isin(np.arange(64), TABLE[token])
        assert float(nats[0, i]) == pytest.approx(-float(np.log(np.where(on, p[i], 1 - p[i])).sum()), rel=1e-5)


def test_a_dictionary_s_softmax_is_the_pattern_s_probability_given_that_it_is_a_word_s(params):
    """By Bayes: p(pattern) / sum of p(patterns of the dictionary); so patterns never take fewer nats than words."""
    ids = TOKENIZER.encode(TEXT)[None, :12]
    rows = APPLY(params, ids, None, TABLE[ids])
    found = APPLY(params | dictionary(TABLE, 64), ids).logits
    each = jnp.stack([-rows.nats({"target_rows": np.broadcast_to(row, (1, 12, len(row)))}) for row in TABLE], axis=-1)
    np.testing.assert_allclose(jax.nn.log_softmax(found), jax.nn.log_softmax(each), atol=1e-4)
    assert (jax.nn.log_softmax(found) >= each).all()


def test_ids_with_a_dictionary_are_patterns_without(params):
    ids = TOKENIZER.encode(TEXT)[None, :12]
    known = params | dictionary(TABLE, 64)
    np.testing.assert_allclose(APPLY(known, ids).logits, APPLY(known, ids, None, TABLE[ids]).logits, atol=1e-5)
    with pytest.raises(ValueError, match="only with a dictionary"):
        MODEL.apply(params, ids)


def test_no_gradient_from_the_future_or_other_documents_or_rows(params):
    segments, t = np.ones((2, 20), np.int32), 13
    segments[0, 6:] = 2

    def loss(extra_BL):
        class Moved(TFree):
            def embed_rows(self, rows):
                x = super().embed_rows(rows)
                return x + extra_BL[..., None] * jax.random.normal(jax.random.key(3), x.shape[-1:])

        other = Moved(**{f: getattr(MODEL, f) for f in ("vocab_size", "backbone", "rows")})
        ids = np.resize(TOKENIZER.encode(TEXT), (2, 20))
        return jnp.sum(jnp.sin(other.apply(params, ids, segments, TABLE[ids]).logits[0, t]))

    seen = np.abs(np.asarray(jax.jit(jax.grad(loss))(jnp.zeros((2, 20)))))
    assert (seen[0, t + 1 :] == 0).all() and (seen[0, :6] == 0).all() and (seen[1] == 0).all()
    assert (seen[0, 6 : t + 1] > 0).all()


def test_cached_decoding_equals_the_full_forward_pass(params):
    known, lengths = params | dictionary(TABLE, 64), np.array([3, 8])
    ids = np.resize(TOKENIZER.encode(TEXT), (2, 16))
    full = APPLY(known, ids).logits
    valid = np.arange(8) < lengths[:, None]
    prefill, step = (jax.jit(functools.partial(MODEL.apply, method=name)) for name in ("prefill", "step"))
    logits, cache = prefill(known, np.where(valid, ids[:, :8], 0), valid, MODEL.init_cache(2, 16))
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(logits[b, :n], full[b, :n], atol=2e-5)
    for i in range(16 - lengths.max()):
        logits, cache = step(known, ids[np.arange(2), lengths + i], cache)
        np.testing.assert_allclose(logits, full[np.arange(2), lengths + i], atol=2e-5)


def test_training_lowers_the_bits_of_patterns():
    windows = NextPatterns(TRIGRAMS).windows(stream_of([TEXT], TOKENIZER), 24, TOKENIZER)
    batch = windows.batch([0, 1])
    assert {name: array.shape[1:] for name, array in batch.items()} == NextPatterns(TRIGRAMS).shapes(24)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        loss = lambda p: (lambda s, w, m: s / w)(*NextPattern()(MODEL, p, batch, None))  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params, losses = init(MODEL, jax.random.key(0)), []
    state = optimizer.init(params)
    for _ in range(30):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[0] == pytest.approx(NextPattern().at_chance(MODEL), rel=0.02) and losses[-1] < 0.5 * losses[0]


def test_evaluation_with_the_dictionary_and_a_larger_one(tmp_path):
    made = tiny.corpus(tmp_path)
    recipe = WordDictionary(268, 3.0, 6)
    baked = bake(made, recipe, str(tmp_path / "cache"))
    model = MODEL.clone(vocab_size=268)
    params = init(model, jax.random.key(0))
    data = Data(baked, 24, 4, NextPatterns(TRIGRAMS))
    values = WithDictionary(TRIGRAMS, (BitsPerByte("test"),), max_bytes=1500, larger=2)(model, params, data)
    # Nothing is learned: rows are as likely on as off, and words nearly alike.
    covered = sum(len(d) for d in baked.documents("test"))
    tokens = sum(len(baked.tokenizer.encode(d)) + 1 for d in baked.documents("test"))
    assert values["bpb"] == pytest.approx(tokens * math.log2(268) / covered, rel=0.2)
    assert values["pattern_bpb"] > 5 * values["raw_bpb"]
    assert values["larger_bytes_per_token"] > values["own_bytes_per_token"] > 1
    validation = bits_per_byte(model, params, data.windows("validation"), data)[0]
    assert validation == pytest.approx(64 * tokens / covered, rel=0.2)  # a bit a row
