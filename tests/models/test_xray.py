"""A model that looks inside of words: its host's equal without them, causal with them; what it spells it expects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta

from lmlab.data.bake import stream_of
from lmlab.data.spelled_words import SpelledWords, spelled_vocabulary
from lmlab.errors import UserError
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, forward, init
from lmlab.models.xray import END, XRay
from lmlab.objectives.look_inside import LookInside, Spelling, grafted
from lmlab.text.bpe import train_bpe
from tests.parameters import moved

TEXTS = [b"the reader reads (readability) of unread_books, naively; notwithstanding x " * 9]
TOKENIZER = train_bpe(TEXTS, 280)
BODY = transformer(1, 16, 32, n_heads=2)
HOST, MODEL = LanguageModel(280, BODY, tied=True), XRay(281, BODY, tied=True, longest=12, d_character=8, d_hidden=8)
BATCH = SpelledWords(12, 0.4).windows(stream_of(TEXTS, TOKENIZER), 24, TOKENIZER).batch([0, 1])
CHARACTERS = np.full((3, 12), -1, np.int32)
for row, word in enumerate((b" naive", b"reader", b"x")):
    CHARACTERS[row, : len(word)] = list(word)


@functools.cache
def params():
    return moved(init(MODEL, jax.random.key(0)), 0.1)


@functools.cache
def applied(method):
    return jax.jit(functools.partial(MODEL.apply, method=method))


@functools.cache
def scored():
    """Compiled: words and the rest of a batch -> nats [B, L]."""

    def nats(words, batch):
        return forward(MODEL, params(), batch | {"inputs": words}).nats(batch) * batch["weights"]

    return jax.jit(nats)


def test_without_words_it_is_its_host():
    host = moved(init(HOST, jax.random.key(1)), 0.1)
    made = grafted(MODEL, jax.tree.map(np.asarray, params()), jax.tree.map(np.asarray, host))
    tokens = np.random.default_rng(0).integers(0, 280, (2, 24))
    own, logits = (jax.jit(m.apply)(p, tokens).logits for m, p in ((MODEL, made), (HOST, host)))
    np.testing.assert_allclose(own[..., :280], logits, atol=1e-5)
    np.testing.assert_allclose(made["params"]["embedding"][280], np.mean(host["params"]["embedding"], 0), rtol=1e-5)
    with pytest.raises(UserError, match="but for them"):
        grafted(MODEL, params(), params() | {"params": params()["params"] | {"more": 0}})
    shapes = lambda model: jax.tree.map(  # noqa: E731
        lambda p: np.zeros(p.shape), meta.unbox(jax.eval_shape(functools.partial(init, model), jax.random.key(0)))
    )
    for other, teacher in ((MODEL.clone(tied=False), HOST), (MODEL, MODEL.clone(d_hidden=12))):
        with pytest.raises(UserError, match="but for them"):  # a head of its own; an encoder of another width
            grafted(other, shapes(other), shapes(teacher))
    untied = grafted(MODEL.clone(tied=False), shapes(MODEL.clone(tied=False)), shapes(HOST.clone(tied=False)))
    assert untied["params"]["head"].shape == (16, 281)


def test_nats_depend_on_no_embedding_and_no_word_behind_them():
    made, place = params(), BATCH["input_segment_ids"][0]
    read = lambda method: MODEL.apply(made, BATCH["inputs"].reshape(-1, 12), method=method)  # noqa: E731
    tokens, words = MODEL.apply(made, BATCH["tokens"], method="embed_tokens"), read("encode")

    class Given(XRay):
        """Vectors are what is asked for."""

        tokens_BLD: object = None
        words_MD: object = None

        def embed_tokens(self, tokens_BL):
            return self.tokens_BLD

        def encode(self, characters_MW):
            return self.words_MD

    sizes = dict(tied=True, longest=12, d_character=8, d_hidden=8)
    at = int(place[place > 0][2])

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(tokens_BLD, words_MD):
        model = Given(281, BODY, **sizes, tokens_BLD=tokens_BLD, words_MD=words_MD)
        output = model.apply(made, BATCH["tokens"], BATCH["segment_ids"], BATCH["inputs"], BATCH["input_segment_ids"])
        return output.nats(BATCH)[0, at]

    by_tokens, by_words = (np.abs(np.asarray(g)).max(-1) for g in gradient(tokens, words))
    by_words = by_words.reshape(2, -1)
    assert not by_tokens[0, at + 1 :].any() and not by_tokens[1].any() and by_tokens[0, :at].any()
    assert not by_words[0, place > at].any() and not by_words[1].any()
    assert (by_words[0, (place > 0) & (place <= at)] > 0).all()


def test_no_position_sees_the_words_ahead_and_all_behind_do():
    base = np.asarray(scored()(BATCH["inputs"], BATCH))
    place = BATCH["input_segment_ids"][0]
    slot = int(np.flatnonzero(place)[2])
    changed = BATCH["inputs"].copy()
    changed[0, slot, 1] = ord("q")
    other = np.asarray(scored()(changed, BATCH))
    differs = np.abs(other - base)[0] > 1e-7
    at = int(place[slot])
    assert not differs[: at - 1].any() and differs[at - 1]  # where it is written
    assert differs[at:][BATCH["weights"][0, at:] > 0].all()  # where it has been read
    np.testing.assert_array_equal(other[1], base[1])


def test_what_lies_behind_a_word_is_not_read():
    vectors = np.asarray(applied("encode")(params(), CHARACTERS))
    wider = XRay(281, BODY, tied=True, longest=15, d_character=8, d_hidden=8)
    padded = np.pad(CHARACTERS, ((0, 0), (0, 3)), constant_values=-1)
    wide = jax.jit(functools.partial(wider.apply, method="encode"))(params(), padded)
    np.testing.assert_allclose(wide, vectors, atol=1e-5)
    order = CHARACTERS.copy()
    order[0, [1, 2]] = order[0, [2, 1]]
    other = np.asarray(applied("encode")(params(), order))
    assert np.abs(other - vectors)[0].max() > 1e-4 and (other == vectors)[1:].all()


def test_characters_and_end_make_one_distribution():
    """The chances of all words of one byte, of none, and of longer ones that begin with each byte, sum to one."""
    x_MD = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    logits = jax.jit(lambda p, x, c: MODEL.apply(p, x, c, method=lambda m, x, c: m.generator(x, c)))
    bytes_ = np.full((257, 12), -1, np.int32)
    bytes_[:256, 0] = np.arange(256)
    log_probs = jax.nn.log_softmax(logits(params(), np.repeat(x_MD, 257, 0), bytes_))
    one = np.exp(-np.asarray(applied("spelled_nats")(params(), np.repeat(x_MD, 257, 0), bytes_)))[:256]
    first, ends = np.exp(log_probs[0, 0]), np.exp(log_probs[:256, 1, END])
    np.testing.assert_allclose(one, first[:256] * ends, rtol=1e-4)
    assert abs(one.sum() + first[END] + np.sum(first[:256] * (1 - ends)) - 1) < 1e-5


def test_it_spells_the_likeliest_characters():
    x_MD = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)
    sharp = {"params": {**params()["params"]}}
    own = sharp["params"]["generator"]
    sharp["params"]["generator"] = own | {"head": 30 * own["head"]}
    spelled = np.asarray(applied("spell")(sharp, x_MD))
    logits = MODEL.apply(sharp, x_MD, spelled, method=lambda m, x, c: m.generator(x, c))
    best = np.asarray(jnp.argmax(logits, -1))
    for own, likeliest in zip(spelled, best):
        size = int(np.sum(own >= 0))
        np.testing.assert_array_equal(own[:size], likeliest[:size])
        assert (own[size:] == -1).all() and (size == 12 or likeliest[size] == END)


def test_the_loss_is_what_is_scored():
    loss, weight, metrics = jax.jit(lambda p: Spelling()(MODEL, p, BATCH, None))(params())
    nats = float(np.sum(scored()(BATCH["inputs"], BATCH)))
    np.testing.assert_allclose([loss, metrics["nats"]], nats, rtol=1e-5)
    assert weight == BATCH["weights"].sum() and metrics["target_bytes"] == BATCH["target_bytes"].sum()
    spelled = metrics["spelled"] / metrics["spelled_of"]
    assert 4 < spelled < 8  # nats per character at random


def test_the_vocabulary_teaches_characters_and_leaves_the_host_alone():
    objective = LookInside(at_once=64)
    state = jax.tree.map(jnp.asarray, objective.begun(MODEL, None, TOKENIZER))
    fresh = {"params": {**init(MODEL, jax.random.key(0))["params"]}}

    optimizer = optax.adam(1e-2)

    @jax.jit
    def update(params, memory, key):
        def loss(params):
            total, weight, metrics = objective(MODEL, params, {}, key, state)
            return total / weight, metrics

        grads, metrics = jax.grad(loss, has_aux=True)(params)
        changes, memory = optimizer.update(grads, memory)
        return optax.apply_updates(params, changes), memory, grads, metrics

    params, memory, grads, first = update(fresh, optimizer.init(fresh), jax.random.key(0))
    for name, grad in grads["params"].items():
        moves = [bool(np.abs(g).max() > 0) for g in jax.tree.leaves(grad)]
        assert all(moves) if name in ("encoder", "generator") else not any(moves)
    for step in range(60):
        params, memory, _, metrics = update(params, memory, jax.random.key(step))
    for name in ("generation", "characters"):
        assert metrics[name] < 0.8 * first[name]
    _, known, held = spelled_vocabulary(TOKENIZER, 12)
    np.testing.assert_array_equal(np.asarray(state["known"]) > 0, np.append(known, False))
    assert held.any()
