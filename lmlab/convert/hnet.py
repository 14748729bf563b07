"""Released H-Net weights (a flat state dict and a config.json) to a directory that `lmlab.load` reads, and back."""

import json
import os
import pathlib

import numpy as np

from lmlab import config
from lmlab.convert import torch_file
from lmlab.convert.whole import write
from lmlab.errors import UserError
from lmlab.models.build import hierarchy
from lmlab.models.chunkers import LearnedChunker
from lmlab.models.hierarchy import Hierarchy
from lmlab.models.hnet_checkpoint import from_state_dict, to_state_dict
from lmlab.models.language_model import LanguageModel
from lmlab.models.mamba2 import Mamba2
from lmlab.models.stack import Stack, parse_layout
from lmlab.models.unpool import Smooth
from lmlab.runner import load_run
from lmlab.training import checkpoints

KEYS = ("arch_layout", "d_model", "d_intermediate", "vocab_size", "ssm_cfg", "attn_cfg", "tie_embeddings")
SSM_KEYS = ("chunk_size", "d_conv", "d_state", "expand")
ATTENTION_KEYS = ("num_heads", "rotary_emb_dim", "window_size")
CONFIG = "config.json"  # of the original, kept in a converted directory
TRAINING_ONLY = {"target", "ratio_weight", "achieved", "capacity", "depth", "remat", "released_bias"}  # fields it has no words for


def model_from_config(data):
    """The `LanguageModel` of an original config.json (as a dict). UserError for anything that lmlab does not have.

    A window counts keys here and keys before the query there: 1023 becomes 1024, -1 becomes None. `chunk_size` is of
    the original's kernel and changes no result. The ratio loss's N, which no config holds, is the paper's.
    """
    _expect_keys("The H-Net config", data, KEYS)
    ssm, attention = data["ssm_cfg"], data["attn_cfg"]
    _expect_keys("ssm_cfg of the H-Net config", ssm, SSM_KEYS)
    _expect_keys("attn_cfg of the H-Net config", attention, ATTENTION_KEYS)
    layouts = _nested(data["arch_layout"])
    stages = len(layouts)
    d_model = _integers("d_model", data["d_model"], stages, 1)
    d_ff = _integers("d_intermediate", data["d_intermediate"], stages, 0)
    heads, rotary = (_integers(k, attention[k], stages, m) for k, m in (("num_heads", 1), ("rotary_emb_dim", 0)))
    window = _integers("window_size", attention["window_size"], stages, -1)
    vocab, d_state = (_integer(k, v) for k, v in (("vocab_size", data["vocab_size"]), ("d_state", ssm["d_state"])))
    _integer("chunk_size", ssm["chunk_size"])
    for name in ("d_conv", "expand"):
        if ssm[name] != getattr(Mamba2, name):
            raise UserError(f"lmlab's Mamba-2 has {name} {getattr(Mamba2, name)}, not {ssm[name]!r}.")
    if not isinstance(data["tie_embeddings"], bool):
        raise UserError(f"tie_embeddings of the H-Net config is true or false, not {data['tie_embeddings']!r}.")
    for s in range(stages):
        _expect_sizes(set("".join(layouts[s])), d_model[s], d_ff[s], heads[s], rotary[s])
        if s and d_model[s] < d_model[s - 1]:
            raise UserError(f"d_model of the H-Net config shrinks inwards: {list(d_model)}.")
    target = (6.0 if stages == 2 else 3.0,) * stages
    backbone = hierarchy(data["arch_layout"], d_model, d_ff, n_heads=heads, d_state=d_state, target=target)
    return LanguageModel(vocab, _with_attention(backbone, rotary, window), data["tie_embeddings"])


def _expect_keys(what, data, keys):
    if not isinstance(data, dict):
        raise UserError(f"{what} is not a JSON object.")
    for key in keys:
        if key not in data:
            raise UserError(f"{what} has no {key!r}.")
    for key in data:
        if key not in keys:
            raise UserError(f"{what} has the unknown key {key!r}.")


def _integer(name, value, least=1):
    if type(value) is not int or value < least:
        raise UserError(f"{name} of the H-Net config must be an integer of at least {least}, not {value!r}.")
    return value


def _integers(name, values, stages, least):
    if not isinstance(values, list) or len(values) != stages:
        raise UserError(f"{name} of the H-Net config must be a list of {stages} integers, not {values!r}.")
    return tuple(_integer(name, value, least) for value in values)


def _nested(layout):
    """Layer strings per stage, from the outside in: [(encoder, decoder), ..., (main,)]."""
    stages, rest = [], layout
    while isinstance(rest, list) and len(rest) == 3:
        stages.append((rest[0], rest[2]))
        rest = rest[1]
    if isinstance(rest, list) and len(rest) == 1:
        stages.append((rest[0],))
        if all(isinstance(text, str) for stage in stages for text in stage):
            return [tuple("".join(parse_layout(text)) for text in stage) for stage in stages]
    raise UserError(f"arch_layout {layout!r} does not nest as [encoder, [inner], decoder] down to [main].")


def _expect_sizes(letters, width, d_ff, heads, rotary):
    if letters & set("MT") and d_ff == 0:
        raise UserError("d_intermediate of the H-Net config is 0 at a stage whose blocks have an MLP.")
    if letters & set("mM") and Mamba2.expand * width % Mamba2.head_dim:
        raise UserError(f"A width of {width} does not split into Mamba-2 heads of {Mamba2.head_dim} channels.")
    if letters & set("tT"):
        if width % heads:
            raise UserError(f"A width of {width} does not split into {heads} attention heads.")
        if rotary % 2 or rotary > width // heads:
            raise UserError(f"rotary_emb_dim {rotary} is odd or more than the {width // heads} channels of a head.")


def _with_attention(module, rotary, window):
    if isinstance(module, Stack):
        return module.clone(rotary_dim=rotary[0], window=None if window[0] < 0 else window[0] + 1)
    return module.clone(
        encoder=_with_attention(module.encoder, rotary, window),
        decoder=_with_attention(module.decoder, rotary, window),
        inner=_with_attention(module.inner, rotary[1:], window[1:]),
    )


def config_from_model(model):
    """The inverse of `model_from_config`. UserError for a model that the original does not have."""
    if type(model) is not LanguageModel:
        raise UserError(f"The original H-Net has no {type(model).__name__}.")
    stacks = []
    layout = _layout(model.backbone, stacks)
    data = {
        "arch_layout": layout,
        "d_model": [s.d_model for s in stacks],
        "d_intermediate": [s.d_ff for s in stacks],
        "vocab_size": model.vocab_size,
        "ssm_cfg": {"chunk_size": 256, "d_conv": Mamba2.d_conv, "d_state": stacks[0].d_state, "expand": Mamba2.expand},
        "attn_cfg": {
            "num_heads": [s.n_heads for s in stacks],
            "rotary_emb_dim": [s.rotary_dim for s in stacks],
            "window_size": [-1 if s.window is None else s.window - 1 for s in stacks],
        },
        "tie_embeddings": model.tied,
    }
    if _inference(config.to_json(model_from_config(data))) != _inference(config.to_json(model)):
        raise UserError("The original H-Net has no words for this model: its stages are not uniform.")
    return data


def _layout(module, stacks):
    """arch_layout; appends one stack per stage to `stacks`."""
    if type(module) is Stack:
        stacks.append(module)
        return [module.layout]
    kinds = {"encoder": Stack, "chunker": LearnedChunker, "unpool": Smooth, "decoder": Stack}
    parts = [(module, Hierarchy)] + [(getattr(module, name, None), kind) for name, kind in kinds.items()]
    for part, kind in parts:
        if type(part) is not kind:
            raise UserError(f"The original H-Net has no {type(part).__name__} where lmlab's has a {kind.__name__}.")
    stacks.append(module.encoder)
    return [module.encoder.layout, _layout(module.inner, stacks), module.decoder.layout]


def _inference(data):
    if isinstance(data, dict):
        return {k: _inference(v) for k, v in data.items() if k not in TRAINING_ONLY}
    return [_inference(v) for v in data] if isinstance(data, list) else data


def import_checkpoint(file, config_file, out):
    """Convert a released checkpoint (.safetensors, else torch's .pt) with its config.json to the new directory `out`.

    It holds the model, the config and the parameters in their stored dtypes, and appears whole or not at all.
    """
    checkpoints.absent(os.path.normpath(out))
    data = config.load_json(config_file)
    model = model_from_config(data)
    weights = (checkpoints.read_arrays if file.endswith(".safetensors") else torch_file.read)(file)
    checkpoints.save_model(out, model, from_state_dict(weights, model), {CONFIG: json.dumps(data, indent=4) + "\n"})


def export_checkpoint(directory, out, dtype=None):
    """Convert a run directory or a converted one to the original's state dict, the new .pt or .safetensors file `out`.

    Its config goes beside it, under the same name with .json, unless it is there. `dtype` None keeps the stored
    dtypes; else see `to_state_dict`.
    """
    stem, kind = os.path.splitext(out)
    if kind not in (".pt", ".safetensors"):
        raise UserError(f"{out} must end in .pt or .safetensors.")
    checkpoints.absent(out)
    _, model, params = load_run(directory)
    kept, config_file = os.path.join(directory, CONFIG), stem + ".json"
    data = config.load_json(kept) if os.path.exists(kept) else config_from_model(model)
    if os.path.lexists(config_file) and config.load_json(config_file) != data:
        raise UserError(f"{config_file} exists already and is the config of another model.")
    weights = to_state_dict({"params": _to_numpy(params["params"])}, model, dtype)
    kinds = {".pt": torch_file.write, ".safetensors": checkpoints.write_arrays}
    write(out, lambda new: kinds[kind](new, weights))
    if not os.path.lexists(config_file):
        text = json.dumps(data, indent=4) + "\n"
        write(config_file, lambda new: pathlib.Path(new).write_text(text, encoding="utf-8"))


def _to_numpy(tree):
    return {k: _to_numpy(v) if isinstance(v, dict) else np.asarray(v) for k, v in tree.items()}
