"""Names and layouts between the original H-Net's state dicts and lmlab's parameters."""

import numpy as np


def from_state_dict(weights, model):
    """Variables of `model` (a `LanguageModel` over H-Net's hierarchy) from a flat {name: array} in torch layout."""
    params = {
        "embedding": np.asarray(weights["embeddings.weight"]),
        "head": np.asarray(weights["lm_head.weight"]).T,
        "backbone": _stage(weights, "backbone.", model.backbone),
    }
    return {"params": params}


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
