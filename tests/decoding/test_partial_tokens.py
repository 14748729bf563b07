"""A prompt cut within a token: only the sum over cover encodings is without bias; healing and alignment do what they say."""

import jax
import numpy as np
import pytest

from lmlab.decoding.byte_ensembles import ByteEnsemble
from lmlab.decoding.exact_bytes import END, ExactBytes, write_bytes
from lmlab.decoding.partial_tokens import aligned, healed, plain
from lmlab.errors import UserError
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text import ByteTokenizer
from tests.decoding.test_exact_bytes import Brute, model, random_model, tokenizer  # noqa: F401

CUT = [b"as wa", b"it th", b"x a"]  # within " was", " the" and " as"


@pytest.fixture(scope="module")
def predict(model, tokenizer):  # noqa: F811
    """The next token's distribution behind tokens, by the full forward pass."""
    module, params = model
    apply = jax.jit(lambda tokens: jax.nn.softmax(module.apply(params, tokens).logits))

    def p(tokens):
        row = np.zeros((1, 24), np.int32)
        row[0, : len(tokens) + 1] = (tokenizer.bos, *tokens)
        return np.asarray(apply(row)[0, len(tokens)], np.float64)

    return p


def of_next_byte(tokenizer, weights_V, covered):  # noqa: F811
    """[257] from weights of next tokens, of which `covered` bytes are known."""
    p = np.zeros(257)
    for token, weight in enumerate(weights_V):
        own = tokenizer.token_bytes(token)
        if token == tokenizer.eos and not covered:
            p[END] += weight
        elif len(own) > covered:
            p[own[covered]] += weight
    return p / p.sum()


def test_only_the_sum_over_covers_is_unbiased_behind_a_cut_token(model, tokenizer):  # noqa: F811
    brute = Brute(*model, tokenizer)
    exact, as_encoded, mended, matched = (
        make(*model, tokenizer, CUT).next_bytes() for make in (ExactBytes, plain, healed, aligned)
    )
    for i, prompt in enumerate(CUT):
        begins, _ = brute.begins(prompt)
        likely = np.argsort(exact[i][:END])[-8:].tolist()
        true = np.array([brute.begins(prompt + bytes([b]))[0] / begins for b in likely])
        np.testing.assert_allclose(exact[i][likely], true, rtol=1e-4)
        assert np.abs(as_encoded[i][likely] - true).sum() > 0.1
        for other in (mended, matched):
            assert np.abs(other[i][likely] - true).sum() > 1e-3


def test_a_prompt_as_it_is_encoded(model, tokenizer, predict):  # noqa: F811
    for prompt, p in zip(CUT, plain(*model, tokenizer, CUT).next_bytes(), strict=True):
        expected = predict(tuple(tokenizer.encode(prompt)))
        expected[tokenizer.bos] = 0
        np.testing.assert_allclose(p, of_next_byte(tokenizer, expected, 0), rtol=1e-4, atol=1e-7)


def test_healing_draws_one_token_that_begins_like_the_last(model, tokenizer, predict):  # noqa: F811
    for prompt, p in zip(CUT, healed(*model, tokenizer, CUT).next_bytes(), strict=True):
        *ids, last = tokenizer.encode(prompt).tolist()
        own, before = tokenizer.token_bytes(last), predict(tuple(ids))
        begins = np.array([tokenizer.token_bytes(t).startswith(own) for t in range(tokenizer.vocab_size)])
        longer = of_next_byte(tokenizer, before * begins * (np.arange(len(before)) != last), len(own))
        free = predict((*ids, last))
        free[tokenizer.bos] = 0
        again = before[last] / (before * begins).sum()
        expected = (1 - again) * longer + again * of_next_byte(tokenizer, free, 0)
        np.testing.assert_allclose(p, expected, rtol=1e-4, atol=1e-7)


def test_alignment_draws_token_by_token_what_agrees(model, tokenizer, predict):  # noqa: F811
    def follow(tokens, left):
        p = predict(tokens)
        p[tokenizer.bos] = 0
        own = [tokenizer.token_bytes(t) for t in range(tokenizer.vocab_size)]
        if not left:
            return of_next_byte(tokenizer, p, 0)
        agrees = np.array([bool(o) and (left.startswith(o) or o.startswith(left)) for o in own])
        p = p * agrees / (p * agrees).sum()
        further = np.array([len(o) > len(left) for o in own])
        total = np.zeros(257)
        if (p * further).sum():
            total += (p * further).sum() * of_next_byte(tokenizer, p * further, len(left))
        for token in np.flatnonzero(p * ~further):
            total += p[token] * follow((*tokens, int(token)), left[len(own[token]) :])
        return total

    for prompt, p in zip(CUT, aligned(*model, tokenizer, CUT, back=2).next_bytes(), strict=True):
        ids = tokenizer.encode(prompt)
        expected = follow(tuple(ids[:-2].tolist()), tokenizer.decode(ids[-2:]))
        np.testing.assert_allclose(p, expected, rtol=1e-3, atol=1e-4)


def test_a_context_stands_before_the_bytes(model, tokenizer):  # noqa: F811
    """As a suffix does that comes first when a middle is filled in."""
    suffix = [tokenizer.eos, *tokenizer.encode(b" of the text").tolist(), tokenizer.bos]
    given = ExactBytes(*model, tokenizer, CUT, contexts=[suffix] * 3).next_bytes()
    fed = ExactBytes(*model, tokenizer, [b""] * 3, contexts=[suffix] * 3)
    fed.feed_all(CUT)
    np.testing.assert_allclose(given, fed.next_bytes(), rtol=1e-4, atol=1e-8)
    assert np.abs(given - ExactBytes(*model, tokenizer, CUT).next_bytes()).max() > 1e-2
    with pytest.raises(UserError, match="at least one token"):
        ExactBytes(*model, tokenizer, CUT, contexts=[[]] * 3)


def test_models_of_different_vocabularies_write_together(model, tokenizer):  # noqa: F811
    byte_model = random_model(256, transformer(1, 32, 64, 2), seed=1)
    members = [ExactBytes(*model, tokenizer, CUT), ExactBytes(*byte_model, ByteTokenizer(), CUT)]
    a, b = (member.next_bytes() for member in members)
    mixture, product = ByteEnsemble(members, (0.25, 0.75)), ByteEnsemble(members, product=True)
    np.testing.assert_allclose(mixture.next_bytes(), 0.25 * a + 0.75 * b)
    geometric = np.sqrt(a * b)
    np.testing.assert_allclose(product.next_bytes(), geometric / geometric.sum(1, keepdims=True), atol=1e-12)
    assert all(len(w) <= 6 for w in write_bytes(mixture, 6))
    np.testing.assert_allclose(product.next_bytes().sum(1), 1)  # both members have moved on
    with pytest.raises(UserError, match="sum to 1"):
        ByteEnsemble(members, (0.5, 0.6))


def test_a_model_of_bytes_is_what_it_was(tokenizer):  # noqa: F811
    module, params = random_model(256, transformer(1, 32, 64, 2), seed=1)
    found = ExactBytes(module, params, ByteTokenizer(), [b"abc"]).next_bytes()[0]
    p = np.array(jax.nn.softmax(jax.jit(module.apply)(params, np.array([[254, 97, 98, 99]])).logits)[0, -1], np.float64)
    p[254] = 0
    np.testing.assert_allclose(found[[*range(254), END]], (p / p.sum())[[*range(254), 255]], rtol=1e-4)
    assert isinstance(module, LanguageModel) and found[255] == 0
