"""Byte-level answers equal brute force over token strings, and are those of a distribution over texts."""

import jax
import numpy as np
import pytest

from lmlab.decoding.byte_ensembles import ByteEnsemble
from lmlab.decoding.exact_bytes import END, ExactBytes, string_log_probs, write_bytes, write_tokens
from lmlab.errors import UserError
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.stack import Stack
from lmlab.text import TokenizerFile, train_bpe
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.canonical import canonical
from tests.parameters import moved
from tests.paths import data
from tests.text.test_canonical import TRAINING, of_longest

TEXTS = [b"the rest", b"it's we", b"as was\n\n\n x", b"we're", " é字".encode(), b"a\xc3", b"\xff\xe3\x80a", b"", b"  \n"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TRAINING, 300)


def random_model(vocab_size, backbone=None, seed=0):
    """Weights large enough for predictions to be far from even."""
    model = LanguageModel(vocab_size, backbone or transformer(1, 32, 64, 2))
    return model, moved(init(model, jax.random.key(seed)), 0.15)


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_model(tokenizer.vocab_size)


class Brute:
    """Sums over all token strings, with the full forward pass for each."""

    def __init__(self, model, params, tokenizer):
        self._apply = jax.jit(lambda tokens: jax.nn.softmax(model.apply(params, tokens).logits))
        self.tokenizer, self._automaton, self._known = tokenizer, canonical(tokenizer), {}

    def _p(self, tokens, state):
        if tokens not in self._known:
            row = np.zeros((1, 24), np.int32)
            row[0, : len(tokens) + 1] = (self.tokenizer.bos, *tokens)
            p = np.asarray(self._apply(row)[0, len(tokens)], np.float64) * self._automaton.allowed(state)
            self._known[tokens] = p / p.sum()
        return self._known[tokens]

    def begins(self, text):
        """Probability that a text begins so, and that it is so: over every token string."""
        return self._sum(text, (), self._automaton.start)

    def _sum(self, rest, tokens, state):
        p = self._p(tokens, state)
        if not rest:
            return np.array([1.0, p[self.tokenizer.eos]])
        total = np.zeros(2)
        for token in np.flatnonzero(p):
            own = self.tokenizer.token_bytes(int(token))
            if own and rest.startswith(own):
                total += p[token] * self._sum(rest[len(own) :], (*tokens, int(token)), self._automaton.behind(state, token))
            elif own.startswith(rest):
                total[0] += p[token]
        return total


@pytest.mark.parametrize("layout", ["T1", "m1t1"])
def test_probability_of_a_string_is_the_sum_over_its_cover_encodings(tokenizer, layout):
    model = random_model(tokenizer.vocab_size, Stack(layout, 32, 64, n_heads=2, rotary_dim=8, d_state=8))
    brute = Brute(*model, tokenizer)
    expected = np.array([brute.begins(text) for text in TEXTS])
    np.testing.assert_allclose(np.exp(string_log_probs(*model, tokenizer, TEXTS)), expected[:, 0], rtol=1e-4)
    np.testing.assert_allclose(np.exp(string_log_probs(*model, tokenizer, TEXTS, whole=True)), expected[:, 1], rtol=1e-4)


@pytest.mark.parametrize("kind", ["list", "lib"])
def test_bytes_of_tokenizers_that_take_the_longest_token(tokenizer, kind):
    """The tokens of a BPE, and some whose beginnings are ended by several others, taken longest first."""
    tokens = {tokenizer.token_bytes(t) for t in range(tokenizer.vocab_size)} | {b"we're there", b"as \n\n", b"he res"}
    longest = of_longest(kind, tuple(sorted(t for t in tokens if len(t) > 1)))
    model = random_model(longest.vocab_size)
    brute = Brute(*model, longest)
    expected = np.array([brute.begins(text) for text in TEXTS])
    np.testing.assert_allclose(np.exp(string_log_probs(*model, longest, TEXTS)), expected[:, 0], rtol=1e-4)
    np.testing.assert_allclose(np.exp(string_log_probs(*model, longest, TEXTS, whole=True)), expected[:, 1], rtol=1e-4)
    found = ExactBytes(*model, longest, TEXTS[:3]).next_bytes()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)
    for text, p in zip(TEXTS[:3], found, strict=True):
        begins, ends = brute.begins(text)
        np.testing.assert_allclose(p[END], ends / begins, rtol=1e-4)
        byte = int(p[:END].argmax())
        np.testing.assert_allclose(p[byte], brute.begins(text + bytes([byte]))[0] / begins, rtol=1e-4)


def test_next_bytes_equal_brute_force_and_sum_to_one(model, tokenizer):
    brute = Brute(*model, tokenizer)
    prompts = TEXTS[:3] + TEXTS[4:6]
    found = ExactBytes(*model, tokenizer, prompts).next_bytes()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)
    for prompt, p in zip(prompts, found, strict=True):
        begins, ends = brute.begins(prompt)
        likely = [*np.argsort(p[:END])[-6:].tolist(), 0, 0xC3, 0xA9]
        expected = [brute.begins(prompt + bytes([b]))[0] / begins for b in likely]
        np.testing.assert_allclose(p[likely], expected, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(p[END], ends / begins, rtol=1e-4)


def test_next_bytes_multiply_to_the_probability_of_the_string(model, tokenizer):
    longest = max(map(len, TEXTS))
    exact, sums = ExactBytes(*model, tokenizer, [b""] * len(TEXTS)), np.zeros(len(TEXTS))
    for at in range(longest):
        p, fed = exact.next_bytes(), [text[at] if at < len(text) else None for text in TEXTS]
        sums += [0.0 if byte is None else np.log(row[byte]) for byte, row in zip(fed, p, strict=True)]
        exact.feed(fed)
    np.testing.assert_allclose(sums, string_log_probs(*model, tokenizer, TEXTS), atol=1e-5)
    np.testing.assert_allclose(sums, exact.log_probs(), atol=1e-5)


def test_a_whole_string_has_one_canonical_encoding(model, tokenizer):
    brute = Brute(*model, tokenizer)
    for text in TEXTS:
        total, state, tokens = 1.0, canonical(tokenizer).start, ()
        for token in [*tokenizer.encode(text).tolist(), tokenizer.eos]:
            total *= brute._p(tokens, state)[token]
            if token != tokenizer.eos:
                tokens, state = (*tokens, token), canonical(tokenizer).behind(state, token)
        np.testing.assert_allclose(total, brute.begins(text)[1], rtol=1e-9)


def test_rows_do_not_see_one_another(model, tokenizer):
    together = ExactBytes(*model, tokenizer, TEXTS[:4])
    for text, p in zip(TEXTS[:4], together.next_bytes(), strict=True):
        np.testing.assert_allclose(ExactBytes(*model, tokenizer, [text]).next_bytes()[0], p, rtol=1e-4, atol=1e-8)


def test_a_prompt_fed_is_a_prompt_given(model, tokenizer):
    fed = ExactBytes(*model, tokenizer, [b"we"])
    for byte in b"'re the r":
        fed.feed([byte])
    given = ExactBytes(*model, tokenizer, [b"we're the r"])
    np.testing.assert_allclose(fed.next_bytes(), given.next_bytes(), rtol=1e-4, atol=1e-8)


def test_what_is_all_but_impossible_keeps_its_probability():
    """A byte model's own tokens are bytes: its exact answers are its softmax, down to 1e-40 and below."""
    tokenizer, text = ByteTokenizer(), b"abcdefgh"
    model, params = random_model(256)
    params["params"]["head"] = params["params"]["head"] * 25
    logits = np.asarray(model.apply(params, np.array([[tokenizer.bos, *text]])).logits[0], np.float64)
    of = np.delete(logits, tokenizer.bos, axis=1)  # which cannot follow
    log_p = logits - np.logaddexp.reduce(of, axis=1, keepdims=True)
    expected = log_p[np.arange(8), list(text)].sum()
    assert expected < -150
    np.testing.assert_allclose(string_log_probs(model, params, tokenizer, [text]), expected, rtol=1e-5)
    exact = ExactBytes(model, params, tokenizer, [b""], 8)
    p = exact.next_bytes()[0, :254]
    assert p.min() < 1e-30
    np.testing.assert_allclose(np.log(p), log_p[0, :254], rtol=1e-4)
    exact.feed_all([text])
    np.testing.assert_allclose(exact.log_probs(), expected, rtol=1e-5)
    likely = random_model(256, seed=1)
    ensemble = ByteEnsemble([ExactBytes(*m, tokenizer, [b""], 8) for m in ((model, params), likely)])
    ensemble.feed([int(np.argmin(p))])
    np.testing.assert_allclose(ensemble.next_bytes().sum(), 1)


def test_both_ways_of_writing_draw_from_the_same_distribution(model, tokenizer):
    prompts, n = [b"the re"] * 64, 12
    first = ExactBytes(*model, tokenizer, prompts[:1]).next_bytes()[0]
    second = {}
    for byte in np.argsort(first[:END])[-3:].tolist():
        p = ExactBytes(*model, tokenizer, [prompts[0] + bytes([byte])]).next_bytes()[0][:END]
        second |= {bytes([byte, b]): first[byte] * p[b] for b in np.argsort(p)[-2:].tolist()}
    for write in (write_bytes, write_tokens):
        drawn = [w for seed in range(n) for w in write(ExactBytes(*model, tokenizer, prompts), 2, seed)]
        for text, p in second.items():
            assert abs(sum(w == text for w in drawn) / len(drawn) - p) < 4.5 * np.sqrt(p / len(drawn)) + 1e-3
        ended = sum(len(w) == 0 for w in drawn) / len(drawn)
        assert abs(ended - first[END]) < 4.5 * np.sqrt(first[END] / len(drawn)) + 1e-3


def test_one_step_of_the_model_a_byte(model, tokenizer, monkeypatch):
    exact = ExactBytes(*model, tokenizer, [b"", b""], 64)
    calls, extend = [], exact.branches.extend
    monkeypatch.setattr(exact.branches, "extend", lambda *a, **k: calls.append(len(a[0])) or extend(*a, **k))
    text = TRAINING[0][:60]
    for byte in text:
        exact.feed([byte, byte])
    assert len(calls) <= len(text) and np.mean(calls) < 2 * 1.2  # rows read, for two texts
    assert max(len(frontier.open) for frontier in exact.frontiers) <= 8


def test_room_is_not_overrun(model, tokenizer):
    exact = ExactBytes(*model, tokenizer, [b"the re"], 2)
    exact.feed_all([b"st"])
    with pytest.raises(UserError, match="room for 0 bytes"):
        exact.feed([32])
    with pytest.raises(UserError, match="room for 2 bytes"):
        write_tokens(ExactBytes(*model, tokenizer, [b"the re"], 2), 3)


@pytest.mark.slow
def test_gpt2_is_marginalised_over_its_own_tokens():
    tokenizer = TokenizerFile(str(data("tokenizers") / "gpt2")).read()
    model = random_model(tokenizer.vocab_size, transformer(1, 16, 16, 2))
    brute, texts = Brute(*model, tokenizer), [b"it's t", b"\n\n b"]
    found = ExactBytes(*model, tokenizer, texts)
    np.testing.assert_allclose(np.exp(found.log_probs()), [brute.begins(text)[0] for text in texts], rtol=1e-4)
    np.testing.assert_allclose(found.next_bytes().sum(1), 1, atol=1e-9)


def test_llama_pieces_are_marginalised_alike():
    tokenizer = TokenizerFile(str(data("weights") / "stories260K" / "tok512.bin")).read()
    model = random_model(tokenizer.vocab_size)
    brute, texts = Brute(*model, tokenizer), [b" Once", b"on a", "né".encode(), b"\xff", b"a\xe2\x96"]
    np.testing.assert_allclose(
        np.exp(string_log_probs(*model, tokenizer, texts)), [brute.begins(text)[0] for text in texts], rtol=1e-4
    )
