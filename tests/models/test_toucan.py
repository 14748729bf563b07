"""Toucan: chunks written by the decoder alone equal the full forward pass, and what runs for a byte is counted."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.decoding.chunkwise import PASS, write_chunks
from lmlab.errors import UserError
from lmlab.evaluation.backbone_calls import BackboneCalls
from lmlab.evaluation.bits_per_byte import Data, bits_per_byte
from lmlab.models.boundaries import GumbelBoundaries
from lmlab.models.build import hourglass
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.toucan import AddToInput, Toucan, WithInput
from lmlab.objectives.ends import NextTokenAndEnd
from lmlab.objectives.next_token import NextToken
from lmlab.text.bytes import ByteTokenizer
from tests.parameters import moved


@pytest.fixture(scope="module")
def tiny():
    backbone = hourglass((1, 1, 1), 16, 32, 2, GumbelBoundaries(16, 16, prior=0.4))
    backbone = backbone.clone(encoder=WithInput(backbone.encoder), unpool=AddToInput(16))
    model = Toucan(256, backbone)
    params = moved(init(model, jax.random.key(0)), 0.3)
    params["params"]["backbone"]["chunker"]["bo"] += 2.0  # a boundary at one byte in three or so
    return model, params


def test_writing_chunk_by_chunk_equals_the_full_forward_pass(tiny):
    model, params = tiny
    tokens = np.random.default_rng(0).integers(97, 123, (1, 24)).astype(np.int32)
    full = jax.jit(model.apply)(params, tokens)
    start = np.asarray(full.stages[0].start_BL[0])
    assert 3 < start.sum() < 21
    run = {m: jax.jit(lambda *args, m=m: model.apply(params, *args, method=m)) for m in ("write", "read", "begin")}
    cache, pending = model.init_cache(1, 24), []
    for t, token in enumerate(tokens[0]):
        pending.append(token)
        if start[t]:
            read = np.zeros((1, 24), np.int32)
            read[0, : len(pending)] = pending  # its last is for `begin`, what follows it is nobody's
            cache = run["read"](read, np.array([len(pending) - 1]), cache)
            pending = []
        on, end, cache = run["begin" if start[t] else "write"](token[None], cache)
        np.testing.assert_allclose(jnp.logaddexp(on, end)[0], full.logits[0, t], atol=2e-5)
        np.testing.assert_allclose((end - on)[0], full.ends[0, t], atol=2e-5)


def test_the_end_costs_its_own_nats(tiny):
    """Beside the tokens' nats, which stay what they are, the loss holds -log P(end | token) of every target but a row's
    last, as the chunker ends them."""
    model, params = tiny
    tokens = np.random.default_rng(1).integers(97, 123, (2, 12)).astype(np.int32)
    batch = {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, 1),
        "segment_ids": np.ones_like(tokens),
        "weights": np.ones(tokens.shape, np.float32),
        "target_bytes": np.ones_like(tokens),
    }
    both, _, metrics = jax.jit(lambda p: NextTokenAndEnd()(model, p, batch, None))(params)
    plain, _, expected = jax.jit(lambda p: NextToken()(model, p, batch, None))(params)
    np.testing.assert_allclose(metrics["nats"], expected["nats"], rtol=1e-6)
    output = jax.jit(model.apply)(params, tokens)
    p_end = jax.nn.sigmoid(np.take_along_axis(np.asarray(output.ends), batch["targets"][..., None], -1)[..., 0])[:, :-1]
    ends = np.asarray(output.stages[0].start_BL)[:, 1:]
    np.testing.assert_allclose(both - plain, -np.log(np.where(ends, p_end, 1 - p_end)).sum(), rtol=1e-4)


def byte_by_byte(model, params, prompt, new, key, longest):
    """`write_chunks`, a byte at a time in all its parts."""
    run = {
        m: jax.jit(lambda *args, m=m: model.apply(params, *args, method=m)) for m in ("step", "write", "read", "begin")
    }
    cache = model.init_cache(1, len(prompt) + new)
    for token in prompt[:-1]:
        _, cache = run["step"](token[None], cache)
    *logits, cache = run["begin"](prompt[-1:], cache)
    written, pending, chunks = [], [], []
    while len(written) < new:
        joint = jnp.concatenate(logits, axis=-1)[0]
        drawn = int(jax.random.categorical(jax.random.fold_in(key, len(written)), joint))
        token, ends = np.array([drawn % model.vocab_size], np.int32), drawn >= model.vocab_size
        written.append(token[0])
        pending.append(token)
        if ends or len(pending) == longest:
            chunks.append(len(pending))
            for before in pending[:-1]:
                cache = run["read"](before[None], np.array([1]), cache)
            pending = []
            *logits, cache = run["begin"](token, cache)
        else:
            *logits, cache = run["write"](token, cache)
    return written, chunks


@pytest.mark.parametrize(("prompt", "new", "longest"), [(b"", 40, 32), (b"begins here", 23, 32), (b"", 40, 12), (b"", 3, 1)])
def test_the_compiled_loop_writes_as_one_byte_by_byte(tiny, prompt, new, longest):
    model, params = tiny
    params = {"params": params["params"] | {"end_head": 0 * params["params"]["end_head"]}}  # long chunks among them
    prompt = np.array([254, *prompt], np.int32)
    written = write_chunks(model, params, prompt, new, jax.random.key(3), longest)
    tokens, chunks = byte_by_byte(model, params, prompt, new, jax.random.key(3), longest)
    np.testing.assert_array_equal(written.tokens, tokens)
    passes = sum(-(-(n - 1) // PASS) + 1 for n in chunks)
    assert written[1:] == (len(chunks), sum(chunks), passes)
    assert max(chunks, default=0) <= longest and (longest != 12 or max(chunks) > PASS)


def test_generation_needs_a_prompt(tiny):
    model, params = tiny
    with pytest.raises(UserError):
        write_chunks(model, params, np.array([], np.int32), 4, jax.random.key(0))


def test_all_arms_are_measured_on_the_same_text(tiny):
    """The same chunks of it give the same calls of the inner network, whoever writes; only what waits differs."""
    model, params = tiny
    stream = stream_of([b"the text that is measured, " * 4], ByteTokenizer())
    data = Data(types.SimpleNamespace(split=lambda name: stream, tokenizer=ByteTokenizer()), 32, 2)
    _, count, starts = bits_per_byte(model, params, data.windows("test"), data)
    found = BackboneCalls(bytes=8, rounds=1)(model, params, data)
    assert count == 108 and found["inner_calls"] == found["encoder_waits"] == starts[0] / count < 1
    assert found["encoder_positions"] == 1 and found["sampled_inner_calls"] <= found["sampled_encoder_passes"] <= 1
    plain = LanguageModel(256, model.backbone)
    plain_params = {"params": {k: v for k, v in params["params"].items() if k != "end_head"}}
    of_plain = BackboneCalls(bytes=8, rounds=1)(plain, plain_params, data)
    assert found["writing_seconds"] > 0 and of_plain["writing_seconds"] > 0
    same = ("inner_calls", "encoder_positions")
    assert {n: of_plain[n] for n in same} == {n: found[n] for n in same} and of_plain["encoder_waits"] == 1
    assert set(found) - set(of_plain) == {"sampled_inner_calls", "sampled_encoder_passes"}
