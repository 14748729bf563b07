"""NextLevelBERT: chunks are read apart, documents too, and hidden vectors are neither seen nor moved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.models.language_model import init
from lmlab.models.next_level import next_level
from lmlab.objectives.masked_vectors import MaskedVectors, smooth_l1
from lmlab.text.bytes import ByteTokenizer
from tests.parameters import moved

N, L = 4, 24
SEGMENTS = np.array([[1] * 10 + [2] * 14, [1] * 20 + [0] * 4], np.int32)
CHUNKS = np.array([[1, 1, 2, 2, 2, 2], [1] * 5 + [0]])


@pytest.fixture(scope="module")
def made():
    model = next_level(ByteTokenizer(), N, 16, 2, (1, 16), (2, 16))
    params = moved(init(model, jax.random.key(0)))
    tokens = np.random.default_rng(0).integers(0, 257, SEGMENTS.shape).astype(np.int32)
    return model, params, tokens


def test_a_chunk_is_read_alone_and_belongs_to_its_last_document(made):
    model, params, tokens = made
    chunks = jax.jit(lambda tokens: model.apply(params, tokens, SEGMENTS, method="chunks_of"))
    states, vectors, segments = chunks(tokens)
    np.testing.assert_array_equal(segments, CHUNKS)
    real = CHUNKS > 0
    np.testing.assert_allclose(np.asarray(vectors).mean(-1)[real], 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(vectors).var(-1)[real], 1, atol=1e-2)
    other = tokens.copy()
    other[0, 8:10] = (other[0, 8:10] + 1) % 257  # the last bytes of document 1, in the chunk of document 2
    states2, vectors2, _ = chunks(other)
    np.testing.assert_allclose(vectors2, vectors, atol=1e-6)
    changed = np.abs(np.asarray(states2) - states).max(-1) > 1e-6
    assert changed[0, 8:10].all() and changed.sum() == 2
    other[0, 13] = (other[0, 13] + 1) % 257
    changed = np.abs(np.asarray(chunks(other)[1]) - vectors).max(-1) > 1e-6
    assert changed[0, 3] and changed.sum() == 1


def test_a_hidden_vector_is_predicted_from_the_seen_ones_of_its_document_alone(made):
    model, params, _ = made
    v = np.random.default_rng(1).normal(size=(2, 6, 16)).astype(np.float32)
    hidden = np.zeros((2, 6), bool)
    hidden[0, [2, 4]] = True

    def loss(v):
        return jnp.sum(model.apply(params, v, hidden, CHUNKS, method="read")[1][0, 2] ** 3)

    seen = np.abs(jax.jit(jax.grad(loss))(v)).sum(-1) > 0
    assert seen.tolist() == [[False, False, False, True, False, True], [False] * 6]


def batch_of(tokens):
    weights = (np.random.default_rng(2).random(SEGMENTS.shape) < 0.3) * (SEGMENTS > 0)
    batch = {"tokens": np.where(weights, 256, tokens), "segment_ids": SEGMENTS, "targets": tokens}
    return batch | {"weights": weights.astype(np.float32), "target_bytes": weights.astype(np.int32)}


def test_the_loss_is_of_hidden_words_and_of_hidden_vectors_of_the_whole_text(made):
    model, params, tokens = made
    batch, key = batch_of(tokens), jax.random.key(0)
    loss, weight, metrics = jax.jit(lambda: MaskedVectors()(model, params, batch, key))()
    log_p = jax.nn.log_softmax(jax.jit(model.apply)(params, batch["tokens"], SEGMENTS).logits)
    nats = -sum(log_p[r, t, tokens[r, t]] for r, t in np.argwhere(batch["weights"]))
    vectors = jax.jit(functools.partial(model.apply, method="hidden_vectors"))
    v, predicted, hidden = vectors(params, tokens, SEGMENTS, rngs={"noise": key})
    distances = [smooth_l1(predicted[r, c] - v[r, c]).mean() for r, c in np.argwhere(hidden)]
    assert len(distances) == 2 == metrics["vectors_of"] and weight == batch["weights"].sum()
    np.testing.assert_allclose(metrics["nats"], nats, rtol=1e-4)
    np.testing.assert_allclose(loss, nats + np.mean(distances) * weight, rtol=1e-4)


def test_each_loss_trains_its_own_part(made):
    model, params, tokens = made
    batch = batch_of(tokens)

    @jax.jit
    def gradient(params, batch, key):
        return jax.grad(lambda params: MaskedVectors()(model, params, batch, key)[0])(params)["params"]

    both = gradient(params, batch, jax.random.key(0))
    assert all(np.asarray(g).any() for g in jax.tree.leaves(both))
    other = gradient(params, batch, jax.random.key(1))  # other chunks are hidden
    for name in ("encoder", "embedding", "head"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), both[name], other[name])
    assert (np.abs(np.asarray(both["out2"]) - other["out2"]) > 1e-4).any()


def test_every_row_hides_its_share_of_chunks_and_no_padding(made):
    model, params, tokens = made
    for share, count in ((0.15, 1), (0.5, 3)):
        model = model.clone(share=share)
        draw = jax.jit(lambda key: model.apply(params, tokens, SEGMENTS, method="hidden_vectors", rngs={"noise": key})[2])
        drawn = [draw(jax.random.key(k)) for k in range(8)]
        assert (np.asarray(drawn).sum(-1) == count).all() and not np.asarray(drawn)[:, 1, 5].any()
        assert np.asarray(drawn).any(0)[CHUNKS > 0].sum() > 4


def test_smooth_l1_is_square_near_and_straight_far():
    np.testing.assert_allclose(smooth_l1(jnp.array([-3.0, -1.0, 0.5, 1.0, 2.0])), [2.5, 0.5, 0.125, 0.5, 1.5])
