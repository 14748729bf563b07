"""MrT5 equals the original code, deletes what it says, and its controller reaches its rate; so do chance and rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.evaluation.scoring import score
from lmlab.models.deletion import DELETED, DeletingEncoder, LearnedGate, RandomGate, WordEndGate
from lmlab.models.encoder_decoder import t5
from lmlab.models.language_model import init
from lmlab.models.t5 import UNIT
from lmlab.objectives.deletion import DeletionRate
from tests.paths import fixture

FIXTURE = functools.cache(functools.partial(fixture, "mrt5_tiny.npz"))


def mapped(read, unit=UNIT):
    """Our parameters from the original's names; `read`: name -> array. `unit`: of the biases; of gradients 1 / UNIT."""

    def attention(name):
        q, k, v, o = (read(f"{name}.{part}.weight") for part in "qkvo")
        return {
            "wq": q.T.reshape(32, 4, 8),
            "wk": k.T.reshape(32, 4, 8),
            "wv": v.T.reshape(32, 4, 8),
            "wo": o.T.reshape(4, 8, 32),
        }

    def stack(name, layers, cross):
        result = {
            "norm": {"scale": read(f"{name}.final_layer_norm.weight")},
            "relative": {"table": read(f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight") / unit},
        }
        for i in range(layers):
            layer = f"{name}.block.{i}.layer"
            last = 2 if cross else 1
            mlp = f"{layer}.{last}.DenseReluDense"
            block = {
                "attention": attention(f"{layer}.0.SelfAttention"),
                "mlp": {
                    "wi": np.stack([read(f"{mlp}.wi_0.weight").T, read(f"{mlp}.wi_1.weight").T], axis=1),
                    "wo": read(f"{mlp}.wo.weight").T,
                },
            }
            block |= {f"norm{j + 1}": {"scale": read(f"{layer}.{j}.layer_norm.weight")} for j in range(last + 1)}
            result[f"blocks_{i}"] = block | ({"cross": attention(f"{layer}.1.EncDecAttention")} if cross else {})
        return result

    gate = "encoder.block.2.delete_gate"
    encoder = stack("encoder", 4, False)
    encoder["gate"] = {
        "norm": {"scale": read(f"{gate}.layer_norm.weight")},
        "w": read(f"{gate}.feed_forward.weight").T,
        "bias": read(f"{gate}.feed_forward.bias"),
    }
    embedding, head = read("shared.weight"), read("lm_head.weight").T
    return {"params": {"embedding": embedding, "head": head, "encoder": encoder, "decoder": stack("decoder", 2, True)}}


def original():
    """(model, parameters, arguments) of the fixture."""
    z = FIXTURE()
    model = t5(384, (4, 2), 32, 64, 4, 8, null=True, encoder=DeletingEncoder, gate=LearnedGate(32), before=2)
    short = dict(buckets=8, max_distance=20)
    model = model.clone(encoder=model.encoder.clone(**short), decoder=model.decoder.clone(**short))
    labels = np.where(z["labels"] < 0, 0, z["labels"]).astype(np.int32)
    tokens = np.pad(labels, ((0, 0), (1, 0)))[:, :-1]
    arguments = (tokens, None, z["input_ids"].astype(np.int32), z["attention_mask"].astype(np.int32))
    return model, mapped(lambda name: z[f"w/{name}"]), arguments


def hardened(model, **changes):
    return model.clone(encoder=model.encoder.clone(hard=True, **changes))


def loss_of(model, params, arguments):
    """Cross-entropy of the labels that count."""
    labels = FIXTURE()["labels"]
    logits = jax.nn.log_softmax(model.apply(params, *arguments).logits)
    picked = jnp.take_along_axis(logits, np.where(labels < 0, 0, labels)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(labels < 0, 0, picked)) / np.sum(labels >= 0)


def test_soft_deletion_equals_the_original():
    model, params, arguments = original()
    z, read = FIXTURE(), arguments[3] > 0
    output = jax.jit(model.apply)(params, *arguments)
    np.testing.assert_allclose(output.encoded.found.gate_BS, z["gate_output"][..., 0], atol=1e-4)
    np.testing.assert_allclose(output.encoded.states_BSD[read], z["enc_soft"][read], atol=1e-5)
    np.testing.assert_allclose(output.logits, z["logits_soft"], atol=1e-5)
    assert abs(loss_of(model, params, arguments) - z["loss_soft"]) < 1e-5


def test_hard_deletion_equals_the_original():
    model, params, arguments = original()
    z = FIXTURE()
    output = jax.jit(hardened(model, forgets=True).apply)(params, *arguments)
    found = output.encoded.found
    np.testing.assert_array_equal(found.positions_BS & ~found.deleted_BS, z["kept"])
    for row, kept in enumerate(z["kept"].sum(axis=1)):
        np.testing.assert_allclose(output.encoded.states_BSD[row, :kept], z["enc_hard"][row, :kept], atol=1e-5)
    np.testing.assert_allclose(output.logits, z["logits_hard"], atol=1e-5)


class Closed(LearnedGate):
    """Nothing leaks through a gate that deletes."""

    def __call__(self, *read):
        gate_BS = super().__call__(*read)
        return jnp.where(gate_BS < DELETED / 2, -1e9, gate_BS)


def test_hard_deletion_is_soft_deletion_without_a_leak():
    """Of positions that are kept and half closed too."""
    model, params, arguments = original()
    closed = model.clone(encoder=model.encoder.clone(gate=Closed(32)))
    soft, hard = (jax.jit(m.apply)(params, *arguments) for m in (closed, hardened(model)))
    gate, kept = FIXTURE()["gate_output"][..., 0], FIXTURE()["kept"]
    assert gate[kept].min() < -5
    np.testing.assert_allclose(hard.logits, soft.logits, atol=1e-5)
    for row, chosen in enumerate(kept):
        states = hard.encoded.states_BSD[row, : chosen.sum()]
        np.testing.assert_allclose(states, soft.encoded.states_BSD[row, np.flatnonzero(chosen)], atol=1e-5)
    without = jax.jit(hardened(model, forgets=True).apply)(params, *arguments)
    assert np.abs(without.logits - hard.logits).max() > 1e-3


def test_gradients_equal_the_original():
    """The original shares one embedding between encoder and decoder and lists it three times."""
    model, params, arguments = original()
    z = FIXTURE()
    gradient = jax.jit(jax.grad(lambda p: loss_of(model, p, arguments)))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), gradient, mapped(lambda n: z[f"g/{n}"], 1 / UNIT)
    )


def test_the_controller_equals_its_formula():
    z = FIXTURE()
    for name, objective in {
        "pi_alpha_p05_i1e5_t05": DeletionRate(0.5, 0.5, 1e-5),
        "pi_alpha_p05_i5e5_t04": DeletionRate(0.4, 0.5, 5e-5),
    }.items():
        state, alphas = objective.init_state(), []
        for share in z["pi_current"]:
            state = objective.next_state(state, {"deleted": share, "deleted_of": 1.0})
            alphas.append(objective.alpha(state))
        np.testing.assert_allclose(alphas, z[name], atol=1e-7)


def test_capacity_loses_only_what_it_counts():
    """With enough slots the capacity changes nothing; with too few, the overflow is counted."""
    model, params, arguments = original()
    exact = jax.jit(hardened(model).apply)(params, *arguments)
    kept = int(FIXTURE()["kept"].sum(axis=1).max())
    roomy = jax.jit(hardened(model, capacity=0.6).apply)(params, *arguments)
    assert roomy.encoded.states_BSD.shape[1] < arguments[2].shape[1] and int(roomy.encoded.found.overflow) == 0
    np.testing.assert_allclose(roomy.logits, exact.logits, atol=1e-5)
    tight = jax.jit(hardened(model, capacity=0.2).apply)(params, *arguments)
    assert int(tight.encoded.found.overflow) == kept - tight.encoded.states_BSD.shape[1]


def test_scores_lose_nothing_to_the_capacity():
    model, params, (tokens, _, inputs, read) = original()
    batch = {"tokens": tokens, "inputs": inputs, "input_segment_ids": read, "segment_ids": np.ones_like(tokens)}
    batch |= {"targets": np.roll(tokens, -1, axis=1), "weights": np.ones(tokens.shape, np.float32)}
    expected = score(hardened(model), params, batch)
    np.testing.assert_allclose(score(hardened(model, capacity=0.2), params, batch).nats_BL, expected.nats_BL, atol=1e-5)


@pytest.mark.parametrize("rate", [0.3, 0.5])
@pytest.mark.parametrize("kind", [RandomGate, WordEndGate])
def test_gates_without_parameters_keep_their_rate(kind, rate):
    rng = np.random.default_rng(0)
    tokens = np.where(rng.random((16, 256)) < 0.18, 32, rng.integers(97, 123, (16, 256))).astype(np.int32)
    gate = kind(rate).apply({}, None, tokens, np.ones_like(tokens))
    assert set(np.unique(gate)) == {DELETED, 0.0}
    assert abs(np.mean(gate < 0) - rate) < 0.02
    again = kind(rate).apply({}, None, tokens[3:4], np.ones_like(tokens[3:4]))
    np.testing.assert_array_equal(again[0], gate[3])  # by the row alone


def test_word_ends_go():
    text = np.frombuffer(b"sentences of several words", np.uint8)[None].astype(np.int32)
    gone = np.asarray(WordEndGate(0.5).apply({}, None, text, np.ones_like(text)) < 0)[0]
    words = np.array([len(w) for w in (b"sentences", b" of", b" several", b" words")])
    for end, size in zip(np.cumsum(words), words, strict=True):
        part = gone[end - size : end]
        assert (np.diff(part.astype(int)) >= 0).all() and abs(part.sum() - size / 2) <= 1
