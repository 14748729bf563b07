"""Agreement with MegaByte and SpaceByte as released with arXiv 2404.14408: logits, loss, gradients of tiny models.

Its rotary embedding pairs neighbouring channels, ours halves of a head; it widens with zeros in front, we behind.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np

from lmlab import experiment
from lmlab.models.build import megabyte, spacebyte
from lmlab.models.chunkers import spacelike
from lmlab.models.language_model import LanguageModel, abstract_init, init
from tests.paths import fixture


def weights_of(arrays, prefix="w/"):
    return {k[len(prefix) :]: arrays[k] for k in arrays.files if k.startswith(prefix)}


def stack_params(w, prefix, n_layers, width, order):
    """`order`: the original's residual channel that is our n-th."""
    result = {}
    for i in range(n_layers):
        at = f"{prefix}.{i}."
        scale = w[at + "attention.Q_layer_norm.scale"]
        K = len(scale)
        pairs = np.r_[0:K:2, 1:K:2]
        qkv = w[at + "attention.QKV_linear.weight"][:, order].T.reshape(width, 3, width // K, K)
        qkv = np.stack([qkv[:, 0][..., pairs], qkv[:, 1][..., pairs], qkv[:, 2]], axis=1)
        result[f"layers_{i}"] = {
            "norm1": {"scale": w[at + "attention.layer_norm.scale"][order]},
            "norm2": {"scale": w[at + "feedforward.layer_norm.scale"][order]},
            "mixer": {
                "wqkv": qkv,
                "wo": w[at + "attention.linear.weight"][order].T.reshape(width // K, K, width),
                "q_norm": {"scale": scale[pairs]},
                "k_norm": {"scale": w[at + "attention.K_layer_norm.scale"][pairs]},
            },
            "mlp": {
                "wi": w[at + "feedforward.linear_1.weight"][:, order].T,
                "wo": w[at + "feedforward.linear_2.weight"][order].T,
            },
        }
    return result


def megabyte_params(w):
    patch, local = w["local_position_encoding"].shape
    G = w["global_token_embedding.weight"].shape[1]
    width = patch * G
    backbone = {
        "encoder": {"table": w["global_token_embedding.weight"]},
        "pool": {"pad": w["global_pad"]},
        "inner": {
            "table": w["global_position_encoding"].reshape(-1, width) * (np.arange(16) > 0)[:, None],
            "stack": stack_params(w, "global_blocks", 2, width, np.arange(width)),
        },
        "unpool": {"kernel": w["global_to_local.weight"].T, "bias": w["global_to_local.bias"], "pad": w["local_pad"]},
        "decoder": {
            "stack": {
                "table": w["local_position_encoding"] * (np.arange(patch) > 0)[:, None],
                "stack": stack_params(w, "local_blocks", 2, local, np.arange(local))
                | {"norm": {"scale": w["logits.layer_norm.scale"]}},
            }
        },
    }
    head = w["logits.logits_linear.weight"].T
    return {"params": {"embedding": w["local_token_embedding.weight"], "head": head, "backbone": backbone}}


def spacebyte_params(w):
    local, width = 64, 128
    order = np.r_[width - local : width, : width - local]
    backbone = {
        "encoder": {
            "table": w["local_position_encoding"],
            "stack": stack_params(w, "initial_blocks", 1, local, np.arange(local)),
        },
        "widen": np.zeros(width - local, np.float32),
        "inner": {
            "table": np.pad(w["global_position_encoding"][:, order], ((0, 32), (0, 0))),
            "stack": stack_params(w, "global_blocks", 2, width, order),
        },
        "decoder": stack_params(w, "final_blocks", 1, local, np.arange(local))
        | {"norm": {"scale": w["logits.layer_norm.scale"]}},
    }
    head = w["logits.logits_linear.weight"].T
    return {"params": {"embedding": w["token_embedding.weight"], "head": head, "backbone": backbone}}


def check(arrays, model, params_of, unlike):
    """`unlike`: paths of parameters whose gradient has no counterpart."""
    params = params_of(weights_of(arrays))
    assert jax.tree.structure(params) == jax.tree.structure(jax.eval_shape(lambda: init(model, jax.random.key(0))))
    tokens, targets = arrays["tokens"].astype(np.int32), arrays["targets"]

    @jax.jit
    def loss(params):
        logits = model.apply(params, tokens).logits
        nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
        return jnp.mean(nats), logits

    (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(logits, arrays["logits"], atol=5e-5)
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-6)
    theirs = params_of(weights_of(arrays, "g/"))
    for path, ours in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path, simple=True, separator="/").removeprefix("params/backbone/")
        expected = theirs
        for key in path:
            expected = expected[key.key]
        if name in unlike:
            ours = ours[unlike[name]]
            expected = expected[unlike[name]]
        np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-5, err_msg=name)


def test_megabyte():
    """The original's positions of a pad vector are never read: ours, added to it, are zero there."""
    arrays = fixture("megabyte_slagle_tiny.npz")
    model = LanguageModel(256, megabyte((2, 2), (128, 64), 4, 64, d_head=32))
    after_pad = {"inner/table": slice(1, None), "decoder/stack/table": slice(1, None)}
    check(arrays, model, megabyte_params, after_pad)


def test_spacebyte():
    """Its CPU window lets `window` + 1 keys in; BOS is 255 there and starts a word by its value, here by its place."""
    arrays = fixture("spacebyte_tiny.npz")
    config = json.loads(str(arrays["config_json"]))
    window = config["local_attention_window"] + 1
    model = LanguageModel(256, spacebyte((1, 2, 1), (128, 64), 64, 6.0, d_head=32, window=window))
    check(arrays, model, spacebyte_params, {"widen": slice(0, 0)})
    starts = np.asarray(model.apply(spacebyte_params(weights_of(arrays)), arrays["tokens"]).stages[0].start_BL)
    for row, count, at in zip(starts, arrays["global_T"], arrays["global_ts"], strict=True):
        np.testing.assert_array_equal(np.flatnonzero(row), at[:count])


def test_the_rule_of_spacebyte():
    np.testing.assert_array_equal(spacelike(np.arange(256)), fixture("spacebyte_rule.npz")["spacelike"])


def test_paper_scale_has_the_blocks_that_its_name_counts():
    """SpaceByte-793M+184M: the weights of its blocks, without norms, embeddings and positions."""
    backbone = abstract_init(experiment.load("spacebyte").resolve("spacebyte", "paper").model)["params"]["backbone"]

    def matrices(*parts):
        leaves = jax.tree_util.tree_leaves_with_path([backbone[part] for part in parts])
        return sum(leaf.size for path, leaf in leaves if "layers_" in str(path) and leaf.ndim > 1)

    assert round(matrices("inner") / 1e6) == 793 and round(matrices("encoder", "decoder") / 1e6) == 184
