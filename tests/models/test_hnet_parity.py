"""Agreement with the original H-Net: forward, gradients, prefill and stepping of whole tiny models."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.models.build import hierarchy
from lmlab.models.hnet_checkpoint import from_state_dict, mamba_params, stack_params
from lmlab.models.language_model import LanguageModel, abstract_init, count_parameters
from lmlab.models.mamba2 import Mamba2
from lmlab.models.stack import Stack
from lmlab.objectives.next_token import NextToken
from tests.paths import SHARED, fixture

RELEASED = {
    "hnet_1stage_L": (["m4", ["T22"], "m4"], (1024, 1536), (0, 4096), 679_405_312),
    "hnet_1stage_XL": (["m4", ["T24"], "m4"], (1024, 2048), (0, 5504), 1_270_833_920),
    "hnet_2stage_L": (["m4", ["T1m4", ["T26"], "m4T1"], "m4"], (1024, 1024, 1536), (0, 2816, 4096), 874_315_264),
    "hnet_2stage_XL": (["m4", ["T1m4", ["T27"], "m4T1"], "m4"], (1024, 1536, 2048), (0, 4096, 5504), 1_603_492_224),
    "hnet_2stage_XL_chinese": (
        ["m4", ["T1m4", ["T30"], "m4T1"], "m4"],
        (1024, 1536, 2048),
        (0, 4096, 5504),
        1_755_285_888,
    ),
    "hnet_2stage_XL_code": (
        ["m4", ["T1m4", ["T28"], "m4T1"], "m4"],
        (1024, 1536, 2048),
        (0, 4096, 5504),
        1_654_090_112,
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes_are_exact(name):
    layout, d_model, d_ff, expected = RELEASED[name]
    assert count_parameters(LanguageModel(256, hierarchy(layout, d_model, d_ff))) == expected


def weights_of(arrays, prefix="w/"):
    return {k[len(prefix) :]: arrays[k] for k in arrays.files if k.startswith(prefix)}


def load(name):
    arrays = fixture(name)
    config = json.loads(str(arrays["config_json"]))
    backbone = hierarchy(
        config["arch_layout"],
        tuple(config["d_model"]),
        tuple(config["d_intermediate"]),
        n_heads=tuple(config["attn_cfg"]["num_heads"]),
        window=tuple(w + 1 if w >= 0 else None for w in config["attn_cfg"]["window_size"]),
        d_state=config["ssm_cfg"]["d_state"],
        target=tuple(float(n) for n in arrays["N"]) + (0.0,),
    )
    model = LanguageModel(256, _with_rotary(backbone, config["attn_cfg"]["rotary_emb_dim"]))
    return arrays, model, jax.tree.map(jnp.asarray, from_state_dict(weights_of(arrays), model))


def _with_rotary(module, dims):
    if isinstance(module, Stack):
        return module.clone(rotary_dim=dims[0])
    return module.clone(
        encoder=_with_rotary(module.encoder, dims),
        decoder=_with_rotary(module.decoder, dims),
        inner=_with_rotary(module.inner, dims[1:]),
    )


@pytest.fixture(scope="module", params=["hnet_lm_1stage.npz", "hnet_lm_2stage.npz"])
def lm(request):
    return load(request.param)


def test_logits_and_boundaries(lm):
    arrays, model, params = lm
    output = jax.jit(model.apply)(params, arrays["input_ids"])
    np.testing.assert_allclose(output.logits, arrays["logits"], atol=1e-5)
    start_BL = np.asarray(output.stages[0].start_BL)
    np.testing.assert_array_equal(start_BL.reshape(-1), arrays["s0/boundary_mask"])
    if len(output.stages) == 2:  # the inner stage decides at the outer one's starts
        inner = np.asarray(output.stages[1].start_BL)
        np.testing.assert_array_equal(inner[start_BL], arrays["s1/boundary_mask"])


def test_loss_and_gradients(lm):
    arrays, model, params = lm
    tokens = arrays["input_ids"].astype(np.int32)
    B, L = tokens.shape
    weights = np.ones((B, L), np.float32)
    weights[:, -1] = 0
    batch = {
        "tokens": tokens,
        "targets": np.pad(tokens[:, 1:], ((0, 0), (0, 1))),
        "segment_ids": np.ones((B, L), np.int32),
        "weights": weights,
        "target_bytes": weights.astype(np.int32),
    }

    def loss_fn(params):
        loss, weight, metrics = NextToken()(model, params, batch, None)
        return loss / weight, metrics

    (loss, metrics), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
    np.testing.assert_allclose(metrics["nats"] / metrics["targets"], arrays["ce"], atol=1e-6)
    np.testing.assert_allclose(loss, arrays["loss"], atol=2e-6)
    expected = from_state_dict(weights_of(arrays, "g/"), model)
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-5), grads, expected)


def test_padding_changes_nothing(lm):
    arrays, model, params = lm
    valid = np.arange(arrays["input_ids"].shape[1]) < arrays["mask_lens"][:, None]
    logits = jax.jit(model.apply)(params, arrays["input_ids"], valid.astype(np.int32)).logits
    np.testing.assert_allclose(np.asarray(logits)[valid], arrays["mask_logits"][valid], atol=1e-5)


def test_prefill_then_step(lm):
    arrays, model, params = lm
    tokens = arrays["input_ids"][:1]
    cache = model.init_cache(1, 72)
    prompt = np.pad(tokens[:, :24], ((0, 0), (0, 8)))  # right padding must be inert
    prefill = jax.jit(functools.partial(model.apply, method="prefill"))
    logits, cache = prefill(params, prompt, np.arange(32)[None] < 24, cache)
    np.testing.assert_allclose(logits[0, :24], arrays["prefill24_logits"], atol=1e-5)
    step = jax.jit(lambda cache, token: model.apply(params, token, cache, method="step")[::-1])
    for t in range(24, 72):
        cache, logits = step(cache, tokens[:, t])
        np.testing.assert_allclose(logits[0], arrays["step_logits_24_end"][t - 24], atol=2e-5)


@pytest.mark.parametrize("name", ["m2", "M2", "t2", "T2", "T1m1"])
def test_isotropic_stacks(name):
    arrays = fixture(f"hnet_iso_{name}.npz")
    weights = weights_of(arrays)
    d_ff = weights["layers.0.mlp.fc2.weight"].shape[1] if "layers.0.mlp.fc2.weight" in weights else 0
    stack = Stack(name, 64, d_ff, n_heads=2, rotary_dim=16, window=6, d_state=32)
    x = arrays["x"]
    segments = np.ones(x.shape[:2], np.int32)
    y, _ = jax.jit(stack.apply)({"params": stack_params(weights, "", stack)}, x, None, segments)
    np.testing.assert_allclose(y, arrays["y"], atol=5e-6)


def test_mamba2_mixer():
    arrays = fixture("hnet_mamba2.npz")
    mixer = Mamba2(64)
    params = {"params": jax.tree.map(jnp.asarray, mamba_params(weights_of(arrays), ""))}
    ones = jnp.ones(arrays["u"].shape[:2], jnp.int32)

    @jax.jit
    def forward_and_gradient(params, u, cotangent):
        y, pull = jax.vjp(lambda p, u: mixer.apply(p, u, ones), params, u)
        return y, *pull(cotangent)

    y, grads, grad_u = forward_and_gradient(params, arrays["u"], arrays["loss_weight"])
    np.testing.assert_allclose(y, arrays["y"], atol=5e-6)
    np.testing.assert_allclose(grad_u, arrays["grad_u"], rtol=1e-3, atol=1e-5)
    expected = {"params": mamba_params(weights_of(arrays, "g/"), "")}
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-5), grads, expected)

    packed = jax.jit(mixer.apply)(params, arrays["u"][:1], jnp.asarray(arrays["seq_idx"]) + 1)
    np.testing.assert_allclose(packed, arrays["y_seq_idx"], atol=5e-6)

    valid = jnp.arange(33)[None] < 20
    prefill, step = (jax.jit(functools.partial(mixer.apply, method=method)) for method in ("prefill", "step"))
    _, cache = prefill(params, arrays["u"][:1], valid, mixer.init_cache(1, 33))
    np.testing.assert_allclose(jnp.swapaxes(cache["conv"], 1, 2), arrays["conv_state_after20"], atol=5e-6)
    np.testing.assert_allclose(cache["ssm"], arrays["ssm_state_after20"], atol=5e-6)
    for t in range(20, 33):
        y, cache = step(params, arrays["u"][:1, t], cache, jnp.ones(1, bool))
        np.testing.assert_allclose(y[0], arrays["step_y_20_33"][0, t - 20], atol=5e-6)


def test_every_parameter_of_the_released_models_is_mapped():
    path = SHARED / "fixtures" / "hnet_released_state_dict_keys.json"
    if not path.exists():
        pytest.skip("needs ../shared/fixtures/hnet_released_state_dict_keys.json, which is not on this machine")
    listing = json.loads(path.read_text())
    for name, (layout, d_model, d_ff, _) in RELEASED.items():
        shapes = {key: shape for key, (shape, _) in listing[name]["keys"].items()}
        model = LanguageModel(256, hierarchy(layout, d_model, d_ff))
        zeros = {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
        mapped = from_state_dict(zeros, model)
        ours = nn.meta.unbox(abstract_init(model))
        assert jax.tree.structure(mapped) == jax.tree.structure(ours)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.shape, b.shape), mapped, ours)
