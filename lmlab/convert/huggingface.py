"""Weights with Hugging Face's names and their config.json to a directory that `lmlab.load` reads, and back.

A family says which model a config describes, and where each of its tensors lies in lmlab's parameters: `gpt2.py`,
`llama.py`. Buffers, such as causal masks, hold no weights: they are passed over, and not written.
"""

import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import traverse_util
from flax.linen import meta

from lmlab import config
from lmlab.convert import torch_file
from lmlab.convert.whole import write
from lmlab.errors import UserError
from lmlab.models.hnet_checkpoint import check_tensors
from lmlab.models.language_model import abstract_init
from lmlab.runner import load_run
from lmlab.training import checkpoints
from lmlab.training.directory import TOKENIZER

CONFIG, TENSORS = "config.json", "tensors.json"  # of the original, kept in a converted directory
INDEX = ".index.json"  # how the name of a checkpoint of several files ends


class Tensor(NamedTuple):
    """One or more tensors of theirs (stacked as our second axis), and the parameter that they are."""

    names: tuple[str, ...]
    path: str  # in ours: "backbone/layers_0/mixer/wq"
    shape: tuple[int, ...]  # of each of theirs
    transposed: bool = False  # theirs are [out, in], ours [in, out]


class Family(NamedTuple):
    """What differs between checkpoints of one kind and of another."""

    name: str
    model: Callable  # config -> LanguageModel; UserError for what lmlab does not have
    config: Callable  # LanguageModel -> config; UserError for what they do not have
    tensors: Callable  # LanguageModel -> [Tensor], without the embedding's and the head's
    embedding: str  # name of the embedding
    prefix: str  # of all names but the head's, which some files leave out
    buffers: tuple[str, ...]  # how names of tensors end that hold no weights


def _tensors(family, model):
    V, D = model.vocab_size, model.backbone.d_model
    head = [] if model.tied else [Tensor(("lm_head.weight",), "head", (V, D), True)]
    return [Tensor((family.embedding,), "embedding", (V, D)), *family.tensors(model), *head]


def from_state_dict(family, weights, model):
    """(variables of `model`, names of theirs) from {name: array}. UserError unless names and shapes are the model's."""
    bare = {family.prefix + k if _bare(family, k) else k: k for k in weights if not k.endswith(family.buffers)}
    found = {name: weights[k] for name, k in bare.items()}
    if model.tied and "lm_head.weight" in found:
        if not np.array_equal(found.pop("lm_head.weight"), found.get(family.embedding)):
            raise UserError("The config ties the head to the embedding, but in the checkpoint they differ.")
    tensors = _tensors(family, model)
    check_tensors(found, {n: jax.ShapeDtypeStruct(t.shape, np.float32) for t in tensors for n in t.names})
    ours = traverse_util.flatten_dict(meta.unbox(abstract_init(model))["params"], sep="/")
    flat = {}
    for t in tensors:
        parts = [found[n].T if t.transposed else found[n] for n in t.names]
        flat[t.path] = (np.stack(parts, axis=1) if len(parts) > 1 else parts[0]).reshape(ours[t.path].shape)
    return {"params": traverse_util.unflatten_dict(flat, sep="/")}, sorted(bare.values())


def _bare(family, name):
    return not name.startswith((family.prefix, "lm_head."))


def to_state_dict(family, params, model, names=None):
    """The inverse: {name: array}. `names`: those to write, None for all with their prefix."""
    flat, weights = traverse_util.flatten_dict(params["params"], sep="/"), {}
    for t in _tensors(family, model):
        ours = np.asarray(flat[t.path])
        for i, name in enumerate(t.names):
            part = ours[:, i] if len(t.names) > 1 else ours
            weights[name] = part.reshape(t.shape[::-1]).T if t.transposed else part.reshape(t.shape)
    if names is None:
        return weights
    whole = weights | {"lm_head.weight": weights.get("lm_head.weight", weights[family.embedding])}
    return {k: whole[family.prefix + k if _bare(family, k) else k] for k in names}


def _read(file):
    """({name: array}, metadata) of .safetensors, of an index of several, or of torch's file."""
    if file.endswith(INDEX):
        data = config.load_json(file)
        names = data.get("weight_map") if isinstance(data, dict) else None
        if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
            raise UserError(f"{file} is no index of a checkpoint: it has no weight_map.")
        parts = [_read(os.path.join(os.path.dirname(file), part)) for part in sorted(set(names.values()))]
        return {k: v for weights, _ in parts for k, v in weights.items()}, {"format": "pt"}
    if not file.endswith(".safetensors"):
        return torch_file.read(file), {"format": "pt"}
    weights = checkpoints.read_arrays(file)
    with open(file, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return weights, header.get("__metadata__", {})


def import_checkpoint(family, file, config_file, out, tokenizer=None):
    """Convert a checkpoint with its config.json to the new directory `out`, which appears whole or not at all."""
    checkpoints.absent(os.path.normpath(out))
    data = config.load_json(config_file)
    if not isinstance(data, dict):
        raise UserError(f"{config_file} is not a JSON object.")
    family.model(data)  # a UserError now, not after reading
    save(family, data, *_read(file), out, tokenizer)


def save(family, data, weights, metadata, out, tokenizer=None):
    """Tensors of theirs, their config `data`, their file's `metadata` and the tokenizer as the new directory `out`."""
    model = family.model(data)
    if tokenizer is not None and tokenizer.own_size > model.vocab_size:
        raise UserError(f"The tokenizer has {tokenizer.own_size} ids but the model only {model.vocab_size}.")
    params, names = from_state_dict(family, weights, model)
    kept = {CONFIG: json.dumps(data, indent=2) + "\n", TENSORS: json.dumps({"names": names, "metadata": metadata})}
    if tokenizer is not None:
        kept[TOKENIZER] = tokenizer.definition
    checkpoints.save_model(out, model, params, kept)


def load(family, directory):
    """What `save` was given, of the model in a directory: (config, {name: array}, metadata)."""
    _, model, params = load_run(directory)
    path, original = os.path.join(directory, TENSORS), os.path.join(directory, CONFIG)
    kept = config.load_json(path) if os.path.exists(path) else {"names": None, "metadata": {"format": "pt"}}
    data = family.config(model)
    if os.path.exists(original):
        data = config.load_json(original)
    return data, to_state_dict(family, params, model, kept["names"]), kept["metadata"]


def export_checkpoint(family, directory, out, dtype=None):
    """Convert a run directory or a converted one to the new .safetensors or .pt file `out`, its config beside it under
    the same name with .json. `dtype` None keeps the stored dtypes."""
    stem, kind = os.path.splitext(out)
    if kind not in (".pt", ".safetensors"):
        raise UserError(f"{out} must end in .pt or .safetensors.")
    checkpoints.absent(out)
    checkpoints.absent(stem + ".json")
    data, weights, metadata = load(family, directory)
    if dtype is not None:
        weights = {k: w.astype(dtype) for k, w in weights.items()}
    if kind == ".pt":
        write(out, lambda new: torch_file.write(new, weights))
    else:
        write(out, lambda new: checkpoints.write_arrays(new, weights, metadata))
    text = json.dumps(data, indent=2) + "\n"
    write(stem + ".json", lambda new: pathlib.Path(new).write_text(text, encoding="utf-8"))


def expect(family, data, name, allowed, default=None):
    """UserError unless `data[name]` is one of `allowed`; `default` where it is not given."""
    value = data.get(name, default)
    if value not in allowed:
        raise UserError(f"lmlab's {family} has {name} {' or '.join(map(repr, allowed))}, not {value!r}.")


def integer(data, name, default=None):
    """A positive integer of a config. UserError if it is none."""
    value = data.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise UserError(f"{name} of the config must be a positive integer, not {value!r}.")
    return value


def number(data, name, default):
    """A positive number of a config. UserError if it is none."""
    value = data.get(name, default)
    if type(value) not in (int, float) or not value > 0:
        raise UserError(f"{name} of the config must be a positive number, not {value!r}.")
    return float(value)
