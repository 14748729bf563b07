"""Llamas in the first format of llama2.c: seven integers and float32 tensors, one kind after the other.

Its queries and keys rotate neighbouring channels, Hugging Face's and ours halves: the even channels come first there.
"""

import numpy as np

from lmlab.errors import UserError

HEADER = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def _layers(data):
    """[(their name in a layer, shape)] in the order of the file, norms of the second half after `o_proj`."""
    D, F, _, H, G = (data[k] for k in HEADER)
    kv = G * (D // H)
    attention = [("q_proj", (D, D)), ("k_proj", (kv, D)), ("v_proj", (kv, D)), ("o_proj", (D, D))]
    mlp = [("gate_proj", (F, D)), ("down_proj", (D, F)), ("up_proj", (F, D))]
    named = [("input_layernorm", (D,)), *((f"self_attn.{n}", s) for n, s in attention)]
    return [*named, ("post_attention_layernorm", (D,)), *((f"mlp.{n}", s) for n, s in mlp)]


def _paired(w, d_head, back=False):
    """Rows of neighbouring pairs to rows of halves, or back."""
    shape = (2, d_head // 2) if back else (d_head // 2, 2)
    return w.reshape(-1, *shape, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)


def _tables(length, d_head):
    """Cosines and sines that the format holds and nobody reads: two float32 [length, d_head / 2]. The library that wrote
    them first rounds some otherwise."""
    frequency = (1.0 / 10000.0 ** (np.arange(0, d_head, 2, dtype=np.float32) / np.float32(d_head))).astype(np.float32)
    angle = np.outer(np.arange(length, dtype=np.float32), frequency)
    return np.cos(angle), np.sin(angle)


def read(path):
    """(config, {name: array}) as Hugging Face has them. UserError for a file that is no such model, or truncated."""
    try:
        with open(path, "rb") as f:
            raw = f.read()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    header = np.frombuffer(raw[:28], np.int32).tolist() if len(raw) >= 28 else [0]
    if min(header[:5]) < 1 or max(header[:5]) > 2**20 or header[0] % header[3] or header[3] % header[4]:
        raise UserError(f"{path} is not a model of llama2.c's first format.")
    data = dict(zip(HEADER, header)) | {"vocab_size": abs(header[5]), "max_position_embeddings": header[6]}
    data |= {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": header[5] > 0}
    D, V, K = data["hidden_size"], data["vocab_size"], header[0] // header[3]
    shapes = {"model.embed_tokens": (V, D)}
    for name, shape in _layers(data):
        shapes |= {f"model.layers.{i}.{name}": shape for i in range(header[2])}
    shapes |= {"model.norm": (D,), "cos": (header[6], K // 2), "sin": (header[6], K // 2)}
    if not data["tie_word_embeddings"]:
        shapes["lm_head"] = (V, D)
    total = sum(int(np.prod(s)) for s in shapes.values())
    if len(raw) != 28 + 4 * total:
        raise UserError(f"{path} has {len(raw):,} bytes, but the model that it begins with takes {28 + 4 * total:,}.")
    values, weights = np.frombuffer(raw, np.float32, offset=28), {}
    for name, shape in shapes.items():
        part, values = np.split(values, [int(np.prod(shape))])
        part = part.reshape(shape)
        weights[f"{name}.weight"] = _paired(part, K) if name.endswith(("q_proj", "k_proj")) else part
    del weights["cos.weight"], weights["sin.weight"]
    return data, weights


def write(path, data, weights):
    """The inverse, but for the tables' last bits. UserError for what the format has no words for."""
    D, H, G = (data[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    plain = (data["rms_norm_eps"], data.get("rope_theta", 1e4), data.get("head_dim", D // H)) == (1e-5, 1e4, D // H)
    if not plain or data.get("rope_scaling") or data["model_type"] != "llama" or H % G:
        raise UserError("llama2.c has no words for this model: its eps, heads or positions are others.")
    length = data.get("max_position_embeddings", 2048)
    vocab = data["vocab_size"] if data["tie_word_embeddings"] else -data["vocab_size"]
    parts = [weights["model.embed_tokens.weight"]]
    for name, _ in _layers(data):
        for i in range(data["num_hidden_layers"]):
            w = weights[f"model.layers.{i}.{name}.weight"]
            parts.append(_paired(w, D // H, back=True) if name.endswith(("q_proj", "k_proj")) else w)
    parts += [weights["model.norm.weight"], *_tables(length, D // H)]
    if not data["tie_word_embeddings"]:
        parts.append(weights["lm_head.weight"])

    with open(path, "wb") as f:
        f.write(np.array([*(data[k] for k in HEADER), vocab, length], np.int32).tobytes())
        for part in parts:
            f.write(np.ascontiguousarray(part, np.float32).tobytes())
