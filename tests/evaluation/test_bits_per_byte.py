"""Bits per byte against a count by hand, for byte and subword models, with ragged rows and multi-byte text."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.comparison import Setup
from lmlab.data.bake import bake, stream_of
from lmlab.data.batches import Windows
from lmlab.data.masked_words import MaskedWords
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data, bits_per_byte
from lmlab.evaluation.passages import read_passage
from lmlab.evaluation.scoring import score
from lmlab.models.build import hierarchy, transformer
from lmlab.models.language_model import LanguageModel, Output, init
from lmlab.models.two_way import flat_encoder
from lmlab.models.words import word_model
from lmlab.runner import measured_flops_per_byte
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.words import Words
from tests.training import tiny

DOCUMENTS = ["naïve café 世界 🙂".encode(), b"x", b"the end of the line, the end of the text " * 5]


class Unigram(nn.Module):
    """Fixed logits at every position."""

    vocab_size: int

    @nn.compact
    def __call__(self, tokens, segment_ids=None):
        logits = self.param("logits", nn.initializers.normal(1.0), (self.vocab_size,))
        return Output(jnp.broadcast_to(logits, (*tokens.shape, self.vocab_size)), ())


@pytest.mark.parametrize("recipe", [ByteTokenizer(), BPE(270), Words()], ids=["bytes", "bpe", "words"])
@pytest.mark.parametrize("length, batch", [(7, 3), (64, 2), (1000, 4)])
def test_equals_the_sum_by_hand(recipe, length, batch):
    tokenizer = recipe.train(DOCUMENTS)
    logits = np.random.default_rng(0).normal(size=tokenizer.vocab_size).astype(np.float32)
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    nats = -sum(log_p[t] for d in DOCUMENTS for t in [*tokenizer.encode(d), tokenizer.eos])
    expected = nats / (np.log(2) * sum(map(len, DOCUMENTS)))
    windows = Windows(stream_of(DOCUMENTS, tokenizer), length, tokenizer)
    model, params = Unigram(tokenizer.vocab_size), {"params": {"logits": logits}}
    bpb, source_bytes, _ = bits_per_byte(model, params, windows, Data(None, length, batch))
    assert source_bytes == sum(map(len, DOCUMENTS))
    np.testing.assert_allclose(bpb, expected, rtol=1e-6)


@pytest.mark.parametrize("recipe", [ByteTokenizer(), BPE(270), Words()], ids=["bytes", "bpe", "words"])
def test_passages_cover_every_byte(recipe):
    tokenizer = recipe.train(DOCUMENTS)
    logits = np.random.default_rng(0).normal(size=tokenizer.vocab_size).astype(np.float32)
    model, params = Unigram(tokenizer.vocab_size), {"params": {"logits": logits}}
    passage = read_passage(model, params, tokenizer, DOCUMENTS[0], 8)
    assert bytes(passage["bytes"]) == DOCUMENTS[0]
    assert len(passage["surprisal"]) == len(DOCUMENTS[0])
    log_p = logits - np.log(np.exp(logits).sum())
    bits = -sum(log_p[t] for t in tokenizer.encode(DOCUMENTS[0])) / np.log(2)
    np.testing.assert_allclose(sum(passage["surprisal"]), bits, atol=0.001 * len(DOCUMENTS[0]))
    for stage in passage["stages"]:
        assert len(stage) == len(DOCUMENTS[0])


def test_overflowing_batches_lose_nothing():
    """A capacity too small for the text changes no score."""
    import jax

    tight = hierarchy(["m1", ["T1"], "m1"], (32, 64), (0, 64), n_heads=2, d_state=8, capacity=0.3)
    model = LanguageModel(256, tight)
    full = LanguageModel(256, tight.clone(capacity=None))
    params = init(model, jax.random.key(0))
    batch = Windows(stream_of(DOCUMENTS, ByteTokenizer()), 128, ByteTokenizer()).batch([0, 1])
    assert int(model.apply(params, batch["tokens"], batch["segment_ids"]).stages[0].overflow) > 0
    np.testing.assert_allclose(score(model, params, batch).nats_BL, score(full, params, batch).nats_BL, atol=1e-6)


def test_bytes_that_look_like_marks_keep_their_chunks():
    """0xFE and 0xFF in a text are text, not BOS and EOS: every byte has a stage mark."""
    model = LanguageModel(256, hierarchy(["m1", ["T1"], "m1"], (32, 64), (0, 64), n_heads=2, d_state=8))
    text = b"a\xfe\xffb c" * 4
    passage = read_passage(model, init(model, jax.random.key(0)), ByteTokenizer(), text, 16, 2)
    assert len(passage["stages"][0]) == len(passage["surprisal"]) == len(text)


def test_a_words_chunk_is_shown_from_its_first_byte_on():
    """The chunk that a symbol starts is marked at the byte behind it, and the symbol's bits at the byte before."""
    tokenizer = Words(max_bytes=7)
    backbone = word_model(tokenizer, 16, 16, 2, 1, 1, transformer(1, 16, 16, n_heads=2))
    model = LanguageModel(tokenizer.vocab_size, backbone)
    passage = read_passage(model, init(model, jax.random.key(0)), tokenizer, b"ab c\xfe def", 8)
    assert passage["stages"] == [[0, 0, 0, 1, 0, 0, 1, 0, 0]]
    assert min(passage["surprisal"][i] for i in (2, 5, 8)) > 1.5 * max(passage["surprisal"][i] for i in (0, 1, 3, 6))


def test_flops_of_masked_words_are_per_byte_that_is_read(tmp_path):
    """Not per byte that is hidden: a hidden subword has its bytes without the space before it."""
    corpus, recipe = tiny.corpus(tmp_path), BPE(300, 1.5)
    baked = bake(corpus, recipe, str(tmp_path / "cache"))
    setup = Setup(corpus, 40 * 64, 64, 32, 20, 1e-3, 500)
    run = setup.run(flat_encoder(recipe, 1, 16, 32, 2), tokenizer=recipe, corruption=MaskedWords())
    params = init(run.model, jax.random.key(0))
    found = BitsPerByte("test")(run.model, params, Data(baked, run.length, 4, run.corruption))
    documents = list(baked.documents("test"))
    tokens = sum(len(baked.tokenizer.encode(document)) for document in documents)
    per_token = sum(map(len, documents)) / tokens
    assert found["bytes_per_window_token"] == pytest.approx(per_token)
    assert found["bytes_per_token"] < 0.9 * per_token
    expected = sum(run.flops().values()) / per_token
    assert measured_flops_per_byte(run, found) == pytest.approx(expected)
