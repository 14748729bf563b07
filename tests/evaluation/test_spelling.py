"""What is asked of words: behind pieces and behind misspellings, and of the vocabulary's characters."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.spelled_words import SpelledWords, spelled_vocabulary
from lmlab.evaluation.after_words import AfterWords, _neighbours, _swap
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.spelling import VocabularySpelling
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.xray import XRay
from lmlab.text.bpe import train_bpe
from tests.parameters import moved

TEXTS = [b"the reader reads with care, and the writer never writes what another reader wrote before " * 3] * 2
TOKENIZER = train_bpe(TEXTS, 290)
BODY = transformer(1, 16, 32, n_heads=2)


def data(**changes):
    baked = types.SimpleNamespace(tokenizer=TOKENIZER, documents=lambda split: TEXTS)
    return Data(baked, 24, 4, **changes)


def by_hand(model, params, text, spans):
    """Mean bits of spans of one text, by a forward pass over windows of 24 tokens."""
    stream = stream_of([text], TOKENIZER)
    ids = np.asarray(stream.tokens, np.int32)
    padded = np.pad(ids, (0, -len(ids) % 24 + 1))
    rows = padded[:-1].reshape(-1, 24)
    log_probs = jax.nn.log_softmax(jax.jit(model.apply)(params, rows).logits).reshape(-1, 290)
    nats = -np.asarray(log_probs)[np.arange(len(ids) - 1), ids[1:]]
    ends = np.cumsum(TOKENIZER.token_lengths()[ids[1:-1]])
    total = [sum(n for n, e, s in zip(nats, ends, [0, *ends]) if a <= s and e <= b) for a, b in spans]
    return np.mean(total) / math.log(2)


def test_words_behind_pieces_and_typos_cost_what_their_tokens_do():
    model = LanguageModel(290, BODY)
    params = moved(init(model, jax.random.key(0)), 0.3)
    text, ask = TEXTS[0], AfterWords(max_bytes=len(TEXTS[0]), noise=1.0)
    one = data()
    one.baked.documents = lambda split: [text]
    found = ask(model, params, one)
    pairs = list(_neighbours(text))
    assert text[slice(*pairs[1][:2])] == b" reader" and text[pairs[1][1] : pairs[1][2]] == b" reads"
    pieces = [(b, c) for a, b, c in pairs if len(TOKENIZER.encode(text[a:b])) > 1]
    np.testing.assert_allclose(found["after_pieces"], by_hand(model, params, text, pieces), rtol=1e-4)
    changed, behind, last, rng = bytearray(text), [], -1, np.random.default_rng(ask.seed)
    for a, b, c in pairs:
        if a < last or not (rng.random() < 1 and (swap := _swap(text[a:b], rng))):
            continue
        changed[a:b], last = swap, c
        behind.append((b, c))
    np.testing.assert_allclose(found["after_clean"], by_hand(model, params, text, behind), rtol=1e-4)
    np.testing.assert_allclose(found["after_typos"], by_hand(model, params, bytes(changed), behind), rtol=1e-4)
    assert found["misspelt"] == len(behind)
    assert found["typo_cost"] == found["after_typos"] - found["after_clean"] and found["pieces"] > 1.5


def test_a_misspelling_moves_no_byte_and_no_neighbour():
    rng = np.random.default_rng(0)
    for word in (b" reader", b"writes", b" abba"):
        for _ in range(5):
            other = _swap(word, rng)
            assert other != word and sorted(other) == sorted(word) and other.startswith(b" ") == word.startswith(b" ")
    assert _swap(b" the", rng) is None and _swap(b" aaaa", rng) is None


@functools.cache
def xray():
    model = XRay(291, BODY, tied=True, longest=8, d_character=8, d_hidden=8)
    return model, moved(init(model, jax.random.key(0)), 0.1)


def test_words_are_asked_for_of_positions_that_spell_them_too():
    model, params = xray()
    found = AfterWords(max_bytes=400)(model, params, data(corruption=SpelledWords(8, 0.4)))
    assert all(np.isfinite(v) for v in found.values()) and found["after_pieces"] > 0


def test_what_there_is_no_word_for_is_left_out():
    model, params = xray()
    none = data(corruption=SpelledWords(8, 0.4))
    none.baked.documents = lambda split: [b"1 + 2 = 3; " * 9]
    assert AfterWords()(model, params, none) == {"misspelt": 0}
    short = model.clone(longest=2)
    pairs = {TOKENIZER.token_bytes(i) for i in range(290) if len(TOKENIZER.token_bytes(i)) == 2}
    _, _, held = spelled_vocabulary(TOKENIZER, 1)
    assert pairs and not held.any()  # of single bytes none is held out
    found = VocabularySpelling()(short.clone(longest=1), params, data())
    assert found.keys() == {"recovered/known", "spelled/known"}


def test_a_vocabulary_of_the_encoders_own_vectors_is_recovered():
    model, params = xray()
    characters, known, held = spelled_vocabulary(TOKENIZER, 8)
    own = jax.jit(functools.partial(model.apply, method="encode"))(params, jnp.asarray(characters))
    rows = params["params"]["embedding"].at[:290].set(own)
    found = VocabularySpelling()(model, {"params": params["params"] | {"embedding": rows}}, data())
    assert held.any() and found["recovered"] == found["recovered/known"] == 100.0
    random = VocabularySpelling()(model, params, data())
    assert random["recovered/known"] < 30 and random["spelled/known"] < 30
