"""CharBERT: two channels that read each other, and nothing across documents or out of padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from lmlab.data.bake import stream_of
from lmlab.data.characters import Characters
from lmlab.data.masked_words import MaskedWords
from lmlab.data.noisy_words import NoisyWords
from lmlab.errors import UserError
from lmlab.models.charbert import FromCharacters, Interaction, charbert, neighbour
from lmlab.models.language_model import forward, init
from lmlab.objectives.noisy_words import NoisyLM
from lmlab.text.bpe import BPE
from tests.parameters import moved

DOCUMENTS = [b"one two three four (five, six) seven", b"eight nine ten eleven twelve " * 3]
TOKENIZER = BPE(270).train(DOCUMENTS)
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1] * 8], np.int32)


@pytest.fixture(scope="module")
def interaction():
    module = Interaction(12)
    x = np.random.default_rng(0).normal(size=(2, 2, 8, 12)).astype(np.float32)
    params = moved(meta.unbox(jax.jit(module.init)(jax.random.key(0), *x, SEGMENTS)))
    return jax.jit(lambda t, c: jnp.stack(module.apply(params, t, c, SEGMENTS))), x


def test_each_channel_reads_both_within_five_positions_of_its_segment(interaction):
    apply, (t, c) = interaction
    for stream in (0, 1):
        for row, l in ((0, 3), (1, 4)):
            loss = lambda t, c: jnp.sum(apply(t, c)[stream, row, l] ** 3)  # noqa: B023, E731
            t_grad, c_grad = (np.abs(g).sum(-1) for g in jax.jit(jax.grad(loss, (0, 1)))(t, c))
            own = (SEGMENTS == SEGMENTS[row, l]) & (np.arange(2) == row)[:, None]
            near = own & (np.abs(np.arange(8) - l) <= 2)
            for grad in (t_grad, c_grad):
                assert (grad[near] > 0).all() and (grad[~near] == 0).all()


def test_a_neighbour_is_of_the_same_segment():
    x = np.arange(1.0, 9.0)[None, :, None]
    np.testing.assert_array_equal(neighbour(x, SEGMENTS[:1], 1)[0, :, 0], [2, 3, 4, 0, 6, 7, 0, 0])
    np.testing.assert_array_equal(neighbour(x, SEGMENTS[:1], -2)[0, :, 0], [0, 0, 1, 2, 0, 0, 5, 0])


def test_a_token_has_the_states_at_its_first_and_last_character():
    module = FromCharacters(8, 4)
    owner = np.array([[1, 2, 2, 2, 3, 4, 5, 5, 5, 6, 0, 0]], np.int32)
    characters = np.random.default_rng(0).integers(0, 258, owner.shape).astype(np.int32)
    segments = SEGMENTS[:1]
    params = meta.unbox(jax.jit(module.init)(jax.random.key(0), characters, owner, segments))
    out = module.apply(params, characters, owner, segments)
    of = np.array([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])
    states = module.apply(params, characters, of, method="read")
    np.testing.assert_allclose(out[0, 1], np.concatenate([states[0, 1], states[0, 3]]), atol=1e-6)
    np.testing.assert_allclose(out[0, 4], np.concatenate([states[0, 6], states[0, 8]]), atol=1e-6)
    assert not np.asarray(out[0, 6:]).any() and np.asarray(out[0, :6]).all(axis=-1).all()
    # Forward states begin with the document, backward ones with its end.
    other = characters.copy()
    other[0, :6] = (other[0, :6] + 1) % 258
    np.testing.assert_array_equal(module.apply(params, other, owner, segments)[0, 4:6], out[0, 4:6])
    assert (np.asarray(module.apply(params, other, owner, segments))[0, :4] != np.asarray(out)[0, :4]).all()


@pytest.fixture(scope="module")
def model():
    model = charbert(TOKENIZER, 2, 24, 32, 2, 8)
    params = moved(init(model, jax.random.key(0)))
    return model, params, jax.jit(lambda batch: forward(model, params, batch).logits)


def batch_of(corruption, documents, length=64):
    windows = Characters(corruption, 6.0).windows(stream_of(documents, TOKENIZER), length, TOKENIZER)
    return {name: np.asarray(values) for name, values in windows.batch([0], [(0, 0)]).items()}


def test_documents_and_padding_do_not_leak(model):
    _, _, apply = model
    lasts = DOCUMENTS[1], b"something else altogether"
    one, two = (batch_of(MaskedWords(1e-9), [DOCUMENTS[0], last]) for last in lasts)
    first = one["segment_ids"] == 1
    np.testing.assert_array_equal(first, two["segment_ids"] == 1)
    assert (one["tokens"] != two["tokens"]).any()
    np.testing.assert_allclose(apply(one)[first], apply(two)[first], atol=1e-5)
    padding = two["segment_ids"] == 0
    assert padding.any()
    inputs = np.where(two["input_segment_ids"], two["inputs"], 9)
    other = two | {"tokens": np.where(padding, 7, two["tokens"]), "inputs": inputs}
    np.testing.assert_allclose(apply(other)[~padding], apply(two)[~padding], atol=1e-5)


def test_a_hidden_token_is_read_off_tokens_and_characters_of_its_document_alone(model):
    _, _, apply = model
    batch = batch_of(MaskedWords(0.3), DOCUMENTS)
    hidden = (batch["weights"] > 0) & (batch["segment_ids"] == 1)
    assert hidden.any() and not hidden.all()
    logits = apply(batch)[hidden]
    owner, tokens = batch["input_segment_ids"][0], batch["tokens"][0]
    segment = np.where(owner > 0, batch["segment_ids"][0][np.maximum(owner - 1, 0)], 0)
    for seen, within in ((True, 1), (False, 2)):
        at = np.flatnonzero((segment == within) & (batch["inputs"][0] < 256))[3]
        characters = batch["inputs"].copy()
        characters[0, at] ^= 1
        assert (np.abs(apply(batch | {"inputs": characters})[hidden] - logits).max() > 1e-5) == seen
        token = np.flatnonzero((batch["segment_ids"][0] == within) & (tokens < 256))[2]
        changed = batch["tokens"].copy()
        changed[0, token] ^= 1
        assert (np.abs(apply(batch | {"tokens": changed})[hidden] - logits).max() > 1e-5) == seen


def test_only_hidden_and_misspelt_positions_have_a_loss(model):
    network, params, _ = model
    batch = batch_of(NoisyWords(0.3, 0.6), DOCUMENTS)
    asked = batch["weights"] > 0
    hidden = asked & (batch["target_bytes"] > 0)
    assert hidden.any() and (asked & ~hidden).any() and (~asked).any()
    value = jax.jit(lambda batch: NoisyLM()(network, params, batch, jax.random.key(0)))
    loss, weight, metrics = value(batch)
    same, *_ = value(batch | {"targets": np.where(asked, batch["targets"], 3)})
    assert loss == same and weight == asked.sum() and metrics["targets"] == hidden.sum()
    np.testing.assert_allclose(loss, metrics["nats"] + metrics["restored"], rtol=1e-5)
    only, hidden_weight, _ = value(batch | {"weights": np.where(hidden, batch["weights"], 0)})
    np.testing.assert_allclose(only, metrics["nats"], rtol=1e-5)
    assert hidden_weight == hidden.sum()


def test_widths_that_do_not_fit_are_an_error():
    x = np.zeros((1, 8, 8), np.float32)
    for widths in ((1, 3, 5), (2, 4), ()):
        with pytest.raises(UserError, match="odd widths"):
            Interaction(8, widths).init(jax.random.key(0), x, x, SEGMENTS[:1])
