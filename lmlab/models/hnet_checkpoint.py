"""Names and layouts between the original H-Net's state dicts and lmlab's parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError
from lmlab.models.language_model import abstract_init

# What the original holds in float32 in a model of any dtype. (It casts A_log and dt_bias with the rest.)
FLOAT32 = ("mixer.D", "residual_proj.weight", "residual_proj.bias")


def from_state_dict(weights, model):
    """Variables of `model` (a `LanguageModel` over H-Net's hierarchy) from a flat {name: array} in torch layout.

    UserError unless the names and shapes are exactly the model's; the dtypes stay as they are.
    """
    check_tensors(weights, state_dict_shapes(model))
    params = {"embedding": np.asarray(weights["embeddings.weight"])}
    head = np.asarray(weights["lm_head.weight"])
    if not model.tied:
        params["head"] = head.T
    elif not np.array_equal(head, params["embedding"]):
        raise UserError("The model ties its head to its embedding, but in the checkpoint they differ.")
    params["backbone"] = _stage(weights, "backbone.", model.backbone)
    return {"params": params}


def to_state_dict(variables, model, dtype=None):
    """The inverse of `from_state_dict`: {name: array} in torch layout, in the order of the original.

    `dtype` None keeps the dtypes of the parameters. Otherwise they are those of the original in that dtype: D and the
    residual projections stay in float32.
    """
    params = variables["params"]
    weights = {"embeddings.weight": params["embedding"]}
    weights |= _stage_state(params["backbone"], "backbone.", model.backbone)
    weights["lm_head.weight"] = params["embedding"] if model.tied else params["head"].T
    if dtype is None:
        return weights
    dtypes = {k: jnp.float32 if k.endswith(FLOAT32) else dtype for k in weights}
    return {k: w.astype(dtypes[k], copy=False) for k, w in weights.items()}


def state_dict_shapes(model, dtype=None):
    """What `to_state_dict` gives, as {name: ShapeDtypeStruct}, in the order of the original."""
    names = []

    def run(variables):
        weights = to_state_dict(variables, model, dtype)
        names.extend(weights)
        return list(weights.values())

    shapes = jax.eval_shape(run, nn.meta.unbox(abstract_init(model)))
    return dict(zip(names, shapes, strict=True))


def check_tensors(weights, expected):
    """UserError for the first name or shape that does not fit, with how many do not."""
    total = f"of the model's {len(expected)} tensors"
    if missing := [k for k in expected if k not in weights]:
        raise UserError(f"The checkpoint lacks {len(missing)} {total}, the first {missing[0]}.")
    if extra := [k for k in weights if k not in expected]:
        raise UserError(f"The checkpoint has tensors that the model has not: {len(extra)}, the first {extra[0]!r}.")
    if wrong := [k for k in expected if tuple(weights[k].shape) != expected[k].shape]:
        k = wrong[0]
        raise UserError(
            f"The checkpoint has other shapes for {len(wrong)} {total}, the first {k}: "
            f"{tuple(weights[k].shape)}, not {expected[k].shape}."
        )
    if integer := [k for k in expected if not jnp.issubdtype(weights[k].dtype, jnp.floating)]:
        k = integer[0]
        raise UserError(f"The checkpoint has integers in {len(integer)} {total}, the first {k}: {weights[k].dtype}.")


def _stage(w, prefix, module):
    if not hasattr(module, "encoder"):
        return stack_params(w, prefix + "main_network.", module)
    params = {
        "encoder": stack_params(w, prefix + "encoder.", module.encoder),
        "decoder": stack_params(w, prefix + "decoder.", module.decoder),
        "inner": _stage(w, prefix + "main_network.", module.inner),
        "chunker": {
            "wq": w[prefix + "routing_module.q_proj_layer.weight"].T,
            "wk": w[prefix + "routing_module.k_proj_layer.weight"].T,
        },
        "unpool": {
            "residual": {"kernel": w[prefix + "residual_proj.weight"].T, "bias": w[prefix + "residual_proj.bias"]}
        },
    }
    if prefix + "main_network.pad_dimension" in w:
        params["widen"] = w[prefix + "main_network.pad_dimension"]
    return params


def stack_params(w, prefix, stack):
    """Parameters of one `Stack` from the names of the original's Isotropic module."""
    params = {"norm": {"scale": w[prefix + "rmsnorm.weight"]}}
    D = stack.d_model
    i = 0
    while f"{prefix}layers.{i}.norm1.weight" in w:
        p = f"{prefix}layers.{i}."
        block = {"norm1": {"scale": w[p + "norm1.weight"]}}
        if p + "mixer.Wqkv.weight" in w:
            H = stack.n_heads
            block["mixer"] = {
                "wqkv": w[p + "mixer.Wqkv.weight"].T.reshape(D, 3, H, D // H),
                "wo": w[p + "mixer.out_proj.weight"].T.reshape(H, D // H, D),
            }
        else:
            block["mixer"] = mamba_params(w, p + "mixer.")
        if p + "mlp.fc1.weight" in w:
            wi, wo = w[p + "mlp.fc1.weight"], w[p + "mlp.fc2.weight"]
            block["norm2"] = {"scale": w[p + "norm2.weight"]}
            block["mlp"] = {"wi": wi.T.reshape(D, 2, -1), "wo": wo.T}
        params[f"layers_{i}"] = block
        i += 1
    return params


def mamba_params(w, prefix):
    """Parameters of one `Mamba2` from the names of the original mixer."""
    return {
        "in_proj": w[prefix + "in_proj.weight"].T,
        "conv_kernel": w[prefix + "conv1d.weight"][:, 0].T,
        "conv_bias": w[prefix + "conv1d.bias"],
        "dt_bias": w[prefix + "dt_bias"],
        "A_log": w[prefix + "A_log"],
        "D": w[prefix + "D"],
        "norm": w[prefix + "norm.weight"],
        "out_proj": w[prefix + "out_proj.weight"].T,
    }


def _stage_state(params, prefix, module):
    if not hasattr(module, "encoder"):
        return _stack_state(params, prefix + "main_network.", module)
    weights = _stack_state(params["encoder"], prefix + "encoder.", module.encoder)
    if "widen" in params:
        weights[prefix + "main_network.pad_dimension"] = params["widen"]
    weights |= _stage_state(params["inner"], prefix + "main_network.", module.inner)
    weights |= _stack_state(params["decoder"], prefix + "decoder.", module.decoder)
    residual = params["unpool"]["residual"]
    return weights | {
        prefix + "routing_module.q_proj_layer.weight": params["chunker"]["wq"].T,
        prefix + "routing_module.k_proj_layer.weight": params["chunker"]["wk"].T,
        prefix + "residual_proj.weight": residual["kernel"].T,
        prefix + "residual_proj.bias": residual["bias"],
    }


def _stack_state(params, prefix, stack):
    weights, D = {}, stack.d_model
    for i in range(len(params) - 1):
        p, block = f"{prefix}layers.{i}.", params[f"layers_{i}"]
        weights[p + "norm1.weight"] = block["norm1"]["scale"]
        mixer = block["mixer"]
        if "wqkv" in mixer:
            weights[p + "mixer.Wqkv.weight"] = mixer["wqkv"].reshape(D, 3 * D).T
            weights[p + "mixer.out_proj.weight"] = mixer["wo"].reshape(D, D).T
        else:
            weights |= _mamba_state(mixer, p + "mixer.")
        if "mlp" in block:
            weights[p + "norm2.weight"] = block["norm2"]["scale"]
            weights[p + "mlp.fc1.weight"] = block["mlp"]["wi"].reshape(D, -1).T
            weights[p + "mlp.fc2.weight"] = block["mlp"]["wo"].T
    return weights | {prefix + "rmsnorm.weight": params["norm"]["scale"]}


def _mamba_state(params, prefix):
    return {
        prefix + "dt_bias": params["dt_bias"],
        prefix + "A_log": params["A_log"],
        prefix + "D": params["D"],
        prefix + "in_proj.weight": params["in_proj"].T,
        prefix + "conv1d.weight": params["conv_kernel"].T[:, None],
        prefix + "conv1d.bias": params["conv_bias"],
        prefix + "norm.weight": params["norm"],
        prefix + "out_proj.weight": params["out_proj"].T,
    }
