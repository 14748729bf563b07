"""Llama's checkpoints, and Mistral's, which are the same but for a window."""

from lmlab.convert.huggingface import Family, Tensor, expect, integer, number
from lmlab.errors import UserError
from lmlab.models.language_model import LanguageModel
from lmlab.models.llama import LlamaStack

STRETCH = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def model_from_config(data):
    """The `LanguageModel` of a LlamaForCausalLM's or MistralForCausalLM's config."""
    expect("Llama", data, "model_type", ("llama", "mistral"))
    expect("Llama", data, "hidden_act", ("silu",), "silu")
    for name in ("attention_bias", "mlp_bias"):
        expect("Llama", data, name, (False,), False)
    expect("Llama", data, "tie_word_embeddings", (True, False), False)
    D, H = integer(data, "hidden_size"), integer(data, "num_attention_heads")
    G, K = integer(data, "num_key_value_heads", H), integer(data, "head_dim", D // H)
    if H % G or K % 2:
        raise UserError(f"{H} heads of {K} channels do not share {G} keys and values, or cannot be rotated in pairs.")
    base, stretch = _positions(data)
    window = data.get("sliding_window")
    backbone = LlamaStack(
        n_layers=integer(data, "num_hidden_layers"),
        d_model=D,
        d_ff=integer(data, "intermediate_size"),
        n_heads=H,
        n_groups=G,
        d_head=K,
        eps=number(data, "rms_norm_eps", 1e-6),
        rotary_base=base,
        stretch=stretch,
        window=None if window is None else integer(data, "sliding_window"),
    )
    return LanguageModel(integer(data, "vocab_size"), backbone, data.get("tie_word_embeddings", False))


def _positions(data):
    """(base, stretch) of the rotary positions. Newer configs hold them in `rope_parameters`."""
    newer = data.get("rope_parameters") or {}
    scaling = data.get("rope_scaling") or newer
    if not isinstance(scaling, dict):
        raise UserError(f"rope_scaling of the config must be an object, not {scaling!r}.")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    base = number(newer if "rope_theta" in newer else data, "rope_theta", 10_000.0)
    if kind == "default":
        return base, ()
    if kind != "llama3":
        raise UserError(f"lmlab's Llama has rotary positions of the types 'default' and 'llama3', not {kind!r}.")
    return base, tuple(number(scaling, name, None) for name in STRETCH)


def config_from_model(model):
    """The inverse. UserError for a model that is no Llama."""
    stack = model.backbone if type(model) is LanguageModel else None
    if type(stack) is not LlamaStack:
        raise UserError("The model is no Llama: it cannot be written as one.")
    name = "llama" if stack.window is None else "mistral"
    data = {
        "architectures": [f"{name.capitalize()}ForCausalLM"],
        "model_type": name,
        "hidden_act": "silu",
        "vocab_size": model.vocab_size,
        "hidden_size": stack.d_model,
        "intermediate_size": stack.d_ff,
        "num_hidden_layers": stack.n_layers,
        "num_attention_heads": stack.n_heads,
        "num_key_value_heads": stack.n_groups,
        "head_dim": stack.d_head,
        "rms_norm_eps": stack.eps,
        "rope_theta": stack.rotary_base,
        "tie_word_embeddings": model.tied,
    }
    if stack.stretch:
        data["rope_scaling"] = {"rope_type": "llama3"} | dict(zip(STRETCH, stack.stretch, strict=True))
    return data if stack.window is None else data | {"sliding_window": stack.window}


def tensors(model):
    """Where the tensors of the backbone lie; their matrices are [out, in]."""
    stack = model.backbone
    D, F, Q, KV = stack.d_model, stack.d_ff, stack.n_heads * stack.d_head, stack.n_groups * stack.d_head
    found = []
    for i in range(stack.n_layers):
        theirs, ours = f"model.layers.{i}.", f"backbone/layers_{i}/"
        shapes = {
            (("input_layernorm",), "norm1/scale"): (D,),
            (("self_attn.q_proj",), "mixer/wq"): (Q, D),
            (("self_attn.k_proj",), "mixer/wk"): (KV, D),
            (("self_attn.v_proj",), "mixer/wv"): (KV, D),
            (("self_attn.o_proj",), "mixer/wo"): (D, Q),
            (("post_attention_layernorm",), "norm2/scale"): (D,),
            (("mlp.up_proj", "mlp.gate_proj"), "mlp/wi"): (F, D),
            (("mlp.down_proj",), "mlp/wo"): (D, F),
        }
        for (names, path), shape in shapes.items():
            names = tuple(f"{theirs}{name}.weight" for name in names)
            found.append(Tensor(names, ours + path, shape, transposed=len(shape) == 2))
    return [*found, Tensor(("model.norm.weight",), "backbone/norm/scale", (D,))]


BUFFERS = (".rotary_emb.inv_freq",)
LLAMA = Family("llama", model_from_config, config_from_model, tensors, "model.embed_tokens.weight", "model.", BUFFERS)
