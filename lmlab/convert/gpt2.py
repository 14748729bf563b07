"""GPT-2's checkpoints."""

from lmlab.convert.huggingface import Family, Tensor, expect, integer, number
from lmlab.errors import UserError
from lmlab.models.gpt2 import GPT2Positions, GPT2Stack, gpt2
from lmlab.models.language_model import LanguageModel


def model_from_config(data):
    """The `LanguageModel` of a GPT2LMHeadModel's config."""
    expect("GPT-2", data, "model_type", ("gpt2",))
    expect("GPT-2", data, "activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    expect("GPT-2", data, "scale_attn_weights", (True,), True)
    expect("GPT-2", data, "scale_attn_by_inverse_layer_idx", (False,), False)
    expect("GPT-2", data, "tie_word_embeddings", (True, False), True)
    D, H = integer(data, "n_embd"), integer(data, "n_head")
    if D % H:
        raise UserError(f"A width of {D} does not split into {H} attention heads.")
    length, d_ff = integer(data, "n_positions"), integer(data, "n_inner", 4 * D)
    backbone = gpt2(integer(data, "n_layer"), D, H, length, d_ff, number(data, "layer_norm_epsilon", 1e-5))
    return LanguageModel(integer(data, "vocab_size"), backbone, data.get("tie_word_embeddings", True))


def config_from_model(model):
    """The inverse. UserError for a model that is no GPT-2."""
    stack = getattr(model.backbone, "stack", None) if type(model) is LanguageModel else None
    if type(stack) is not GPT2Stack or type(model.backbone) is not GPT2Positions:
        raise UserError("The model is no GPT-2: it cannot be written as one.")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": model.vocab_size,
        "n_positions": model.backbone.length,
        "n_embd": stack.d_model,
        "n_layer": stack.n_layers,
        "n_head": stack.n_heads,
        "n_inner": stack.d_ff,
        "layer_norm_epsilon": stack.eps,
        "tie_word_embeddings": model.tied,
    }


def tensors(model):
    """Where the tensors of the backbone lie; their matrices are [in, out] as ours."""
    stack = model.backbone.stack
    D, F = stack.d_model, stack.d_ff
    found = [Tensor(("transformer.wpe.weight",), "backbone/table", (model.backbone.length, D))]
    for i in range(stack.n_layers):
        theirs, ours = f"transformer.h.{i}.", f"backbone/stack/layers_{i}/"
        shapes = {
            ("ln_1.weight", "norm1/scale"): (D,),
            ("ln_1.bias", "norm1/shift"): (D,),
            ("attn.c_attn.weight", "mixer/wqkv"): (D, 3 * D),
            ("attn.c_attn.bias", "mixer/bqkv"): (3 * D,),
            ("attn.c_proj.weight", "mixer/wo"): (D, D),
            ("attn.c_proj.bias", "mixer/bo"): (D,),
            ("ln_2.weight", "norm2/scale"): (D,),
            ("ln_2.bias", "norm2/shift"): (D,),
            ("mlp.c_fc.weight", "mlp/wi"): (D, F),
            ("mlp.c_fc.bias", "mlp/bi"): (F,),
            ("mlp.c_proj.weight", "mlp/wo"): (F, D),
            ("mlp.c_proj.bias", "mlp/bo"): (D,),
        }
        found += [Tensor((theirs + name,), ours + path, shape) for (name, path), shape in shapes.items()]
    norm = {"weight": "scale", "bias": "shift"}
    return found + [Tensor((f"transformer.ln_f.{a}",), f"backbone/stack/norm/{b}", (D,)) for a, b in norm.items()]


BUFFERS = (".attn.bias", ".attn.masked_bias")
GPT2 = Family("gpt2", model_from_config, config_from_model, tensors, "transformer.wte.weight", "transformer.", BUFFERS)
