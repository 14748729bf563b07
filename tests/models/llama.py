"""Weights of Llama-like PyTorch stacks (Meta's and Hugging Face's names) as a `Stack`'s."""

import numpy as np

META = dict(
    q="attention.wq", k="attention.wk", v="attention.wv", o="attention.wo", gate="feed_forward.w1",
    up="feed_forward.w3", down="feed_forward.w2", norm1="attention_norm", norm2="ffn_norm",
)  # fmt: skip
HF = dict(
    q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.o_proj", gate="mlp.gate_proj",
    up="mlp.up_proj", down="mlp.down_proj", norm1="input_layernorm", norm2="post_attention_layernorm",
)  # fmt: skip


def stack(weights, prefix, heads, names=META, norm=None):
    """Parameters of the layers under `prefix`, and of the final norm called `norm`.

    Theirs rotate neighbouring channels, ours halves: of queries and keys the even channels come first.
    """
    params, i = {}, 0
    while f"{prefix}layers.{i}.{names['q']}.weight" in weights:
        w = {key: weights[f"{prefix}layers.{i}.{name}.weight"] for key, name in names.items()}
        D = w["q"].shape[1]
        split = lambda x: x.T.reshape(D, heads, -1)  # noqa: E731
        paired = lambda x: np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)  # noqa: E731
        params[f"layers_{i}"] = {
            "norm1": {"scale": w["norm1"]},
            "norm2": {"scale": w["norm2"]},
            "mixer": {
                "wqkv": np.stack([paired(split(w["q"])), paired(split(w["k"])), split(w["v"])], axis=1),
                "wo": w["o"].T.reshape(heads, -1, D),
            },
            "mlp": {"wi": np.stack([w["up"].T, w["gate"].T], axis=1), "wo": w["down"].T},
        }
        i += 1
    if norm is not None:
        params["norm"] = {"scale": weights[norm]}
    return params
