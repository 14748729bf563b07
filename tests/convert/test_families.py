"""GPT-2's and Llama's checkpoints to a directory that lmlab loads, and back: the same logits, the same bytes."""

import base64
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import lmlab
from lmlab.cli import main
from lmlab.convert import huggingface, torch_file
from lmlab.convert.families import FAMILIES, export_checkpoint, import_checkpoint
from lmlab.decoding.generate import generate
from lmlab.errors import UserError
from lmlab.text.bpe import train_bpe
from lmlab.text.multi_word import MultiWordTokenizer
from lmlab.training import checkpoints
from tests.paths import data

GPT2 = {
    "model_type": "gpt2", "vocab_size": 50, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2,
    "layer_norm_epsilon": 1e-5,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 500.0,
    "tie_word_embeddings": False,
}  # fmt: skip
STRETCHED = LLAMA | {
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
}  # fmt: skip
CONFIGS = {
    "gpt2": GPT2,
    "gpt2-untied": GPT2 | {"tie_word_embeddings": False, "n_inner": 24},
    "llama": LLAMA,
    "llama-tied": LLAMA | {"tie_word_embeddings": True},
    "llama-stretched": STRETCHED,
    "mistral": LLAMA | {"model_type": "mistral", "sliding_window": 4},
}
TOKENS = np.random.default_rng(1).integers(0, 50, (2, 12))


def random_weights(config, dtype=np.float32):
    family, rng = FAMILIES[config["model_type"].replace("mistral", "llama")], np.random.default_rng(0)
    weights = {}
    for tensor in huggingface._tensors(family, family.model(config)):
        for name in tensor.names:
            size = tensor.shape[-1] ** -0.5 if len(tensor.shape) == 2 else 1.0
            weights[name] = (size * rng.standard_normal(tensor.shape)).astype(dtype)
    return weights


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q, k, v, window=None):
    """[H, L, K] -> [L, H * K]."""
    at = np.arange(q.shape[1])
    seen = (at[None] <= at[:, None]) & (at[None] > at[:, None] - (window or len(at)))
    p = softmax(np.where(seen, q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5, -1e30))
    return (p @ v).swapaxes(0, 1).reshape(q.shape[1], -1)


def gpt2_logits(c, w, ids):
    """A GPT-2 in NumPy, from its tensors by name."""

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]

    def dense(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]
    for i in range(c["n_layer"]):
        p = f"transformer.h.{i}."
        qkv = dense(norm(x, p + "ln_1"), p + "attn.c_attn").reshape(len(ids), 3, c["n_head"], -1)
        x = x + dense(attend(*qkv.transpose(1, 2, 0, 3)), p + "attn.c_proj")
        h = dense(norm(x, p + "ln_2"), p + "mlp.c_fc")
        h = h / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (h + 0.044715 * h**3)))
        x = x + dense(h, p + "mlp.c_proj")
    return norm(x, "transformer.ln_f") @ w.get("lm_head.weight", w["transformer.wte.weight"]).T


def turning(c):
    """Radians per position, [K / 2]: of Llama 3.1 by its three cases."""
    K = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
    result = []
    for i in range(K // 2):
        f = c.get("rope_theta", 1e4) ** (-2 * i / K)
        if s := c.get("rope_scaling"):
            length, low, high = s["original_max_position_embeddings"], s["low_freq_factor"], s["high_freq_factor"]
            wave = 2 * np.pi / f
            if wave > length / low:
                f /= s["factor"]
            elif wave > length / high:
                smooth = (length / wave - low) / (high - low)
                f = (1 - smooth) * f / s["factor"] + smooth * f
        result.append(f)
    return np.array(result)


def llama_logits(c, w, ids):
    """A Llama in NumPy, from its tensors by name."""
    H, G = c["num_attention_heads"], c["num_key_value_heads"]

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c["rms_norm_eps"]) * w[name + ".weight"]

    angle = np.arange(len(ids))[:, None] * turning(c)

    def turned(x):
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        y = norm(x, p + "input_layernorm")
        q, k, v = (
            (y @ w[f"{p}self_attn.{n}_proj.weight"].T).reshape(len(ids), m, -1).swapaxes(0, 1)
            for n, m in (("q", H), ("k", G), ("v", G))
        )
        k, v = (np.repeat(z, H // G, axis=0) for z in (turned(k), v))
        x = x + attend(turned(q), k, v, c.get("sliding_window")) @ w[p + "self_attn.o_proj.weight"].T
        y = norm(x, p + "post_attention_layernorm")
        gate, up = (y @ w[f"{p}mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def write(folder, weights, config, metadata=None):
    """(family, file, config file) for `import_checkpoint`."""
    file, config_file = folder / "model.safetensors", folder / "config.json"
    checkpoints.write_arrays(str(file), weights, metadata or {"format": "pt"})
    config_file.write_text(json.dumps(config))
    return config["model_type"].replace("mistral", "llama"), str(file), str(config_file)


def logits(model, params, tokens):
    return np.asarray(jax.jit(lambda p: model.apply(p, tokens).logits)(params))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_the_numpy_reference_and_cached_decoding(name, tmp_path):
    config = CONFIGS[name]
    weights = random_weights(config)
    import_checkpoint(*write(tmp_path, weights, config), str(tmp_path / "out"))
    model, params = lmlab.load(str(tmp_path / "out"))
    reference = gpt2_logits if "n_embd" in config else llama_logits
    got = logits(model, params, TOKENS)
    np.testing.assert_allclose(got, [reference(config, weights, ids) for ids in TOKENS], atol=2e-4)

    @jax.jit
    def decoded(params):
        valid = jnp.ones((2, 5), bool)
        out, cache = model.apply(params, TOKENS[:, :5], valid, model.init_cache(2, 12), method="prefill")
        rest = []
        for t in range(5, 12):
            row, cache = model.apply(params, TOKENS[:, t], cache, method="step")
            rest.append(row)
        return jnp.concatenate([out, jnp.stack(rest, axis=1)], axis=1)

    np.testing.assert_allclose(decoded(params), got, atol=2e-4)
    assert sum(model.flops(12).values()) > 0


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_file_to_lmlab_to_file_is_byte_equal(name, dtype, tmp_path):
    family, file, config_file = write(tmp_path, random_weights(CONFIGS[name], dtype), CONFIGS[name], {"format": "pt"})
    import_checkpoint(family, file, config_file, str(tmp_path / "out"))
    export_checkpoint(family, str(tmp_path / "out"), str(tmp_path / "back.safetensors"))
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "back.json").read_text()) == CONFIGS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_written_for_a_model_that_has_none(name):
    family = FAMILIES[CONFIGS[name]["model_type"].replace("mistral", "llama")]
    model = family.model(CONFIGS[name])
    assert family.model(family.config(model)) == model


def test_names_without_prefix_buffers_and_a_repeated_head(tmp_path):
    """Files of older libraries."""
    weights = random_weights(GPT2)
    older = {k.removeprefix("transformer."): w for k, w in weights.items()}
    older |= {"h.0.attn.bias": np.ones((1, 1, 24, 24), np.float32), "lm_head.weight": weights["transformer.wte.weight"]}
    family, file, config_file = write(tmp_path, older, GPT2, {"format": "pt"})
    torch_file.write(str(tmp_path / "pytorch_model.bin"), older)
    import_checkpoint(family, file, config_file, str(tmp_path / "out"))
    import_checkpoint(family, str(tmp_path / "pytorch_model.bin"), config_file, str(tmp_path / "other"))
    for directory in ("out", "other"):
        model, params = lmlab.load(str(tmp_path / directory))
        np.testing.assert_allclose(
            logits(model, params, TOKENS[:1])[0], gpt2_logits(GPT2, weights, TOKENS[0]), atol=2e-4
        )
    export_checkpoint(family, str(tmp_path / "out"), str(tmp_path / "back.safetensors"))
    back = checkpoints.read_arrays(str(tmp_path / "back.safetensors"))
    assert sorted(back) == sorted(set(older) - {"h.0.attn.bias"})


def test_a_checkpoint_of_several_files(tmp_path):
    weights = random_weights(LLAMA)
    names = sorted(weights)
    family, _, config_file = write(tmp_path, weights, LLAMA)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for part, held in parts.items():
        checkpoints.write_arrays(str(tmp_path / part), {k: weights[k] for k in held}, {"format": "pt"})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: part for part, held in parts.items() for k in held}}))
    import_checkpoint(family, str(index), config_file, str(tmp_path / "out"))
    export_checkpoint(family, str(tmp_path / "out"), str(tmp_path / "back.safetensors"))
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def decoded_array(entry):
    dtype = {"torch.float32": np.float32, "torch.int64": np.int64}[entry["dtype"]]
    raw = np.frombuffer(base64.b64decode(entry["data"]), np.float32)
    return raw.astype(dtype).reshape(entry["shape"])


def test_gpt_nano_sort_has_its_stored_logits(tmp_path):
    """minGPT's names, and [out, in] where Hugging Face has [in, out]."""
    folder = data("weights/gpt_nano_sort")
    stored = json.loads((folder / "gpt-nano-sort-model.json").read_text())
    partials = json.loads((folder / "gpt-nano-sort-t0-partials.json").read_text())
    c = stored.pop("config")
    weights = {k: decoded_array(v) for k, v in stored.items() if not k.endswith(".attn.bias")}
    inner = lambda k: ".h." in k and k.endswith("weight") and ".ln_" not in k  # noqa: E731
    weights = {k: w.T if inner(k) else w for k, w in weights.items()}
    config = {"model_type": "gpt2", "vocab_size": c["vocab_size"], "n_positions": c["block_size"]}
    config |= {"n_embd": c["n_embd"], "n_layer": c["n_layer"], "n_head": c["n_head"], "tie_word_embeddings": False}
    import_checkpoint(*write(tmp_path, weights, config), str(tmp_path / "out"))
    model, params = lmlab.load(str(tmp_path / "out"))
    tokens = decoded_array(partials["idx"]).astype(np.int32)
    got = logits(model, params, tokens)
    np.testing.assert_allclose(got, decoded_array(partials["lm_head"]), atol=1e-5)
    assert (got.argmax(-1)[:, 5:] == np.sort(tokens[:, :6])).all()  # it sorts


def test_an_audit_finds_what_stories260k_hardly_saw(tmp_path, capsys):
    """Its text was mended of most quotes that had been read in a wrong encoding: the three pieces of one are left in the
    vocabulary."""
    folder, out = data("weights/stories260K"), str(tmp_path / "out")
    main(["convert", "llama", str(folder / "stories260K.bin"), out, "--tokenizer", str(folder / "tok512.bin")])
    capsys.readouterr()
    main(["audit", out, "--share", "0.1", "--top", "3"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("16 of 165 candidates are flagged by their cosine; 14 of these")
    assert sorted(line.split()[0] for line in said[2:5]) == sorted(map(repr, "\u00e2\u20ac\u2122"))
    with pytest.raises(SystemExit) as stop:
        main(["audit", out, "--indicator", "input_norm"])
    assert stop.value.code == 2 and "is one of output_norm, cosine" in capsys.readouterr().err


def test_stories260k_writes_its_published_text(tmp_path, capsys):
    folder = data("weights/stories260K")
    file, out = str(folder / "stories260K.bin"), str(tmp_path / "out")
    main(["convert", "llama", file, out])
    model, params = lmlab.load(out)
    ids = generate(model, params, [np.array([1])], 60, 2, temperature=0.0)[0]
    raw, pieces = (folder / "tok512.bin").read_bytes()[4:], []
    while raw:
        n = int.from_bytes(raw[4:8], "little")
        pieces.append(raw[8 : 8 + n])
        raw = raw[8 + n :]
    text = b"".join(pieces[i] for i in ids).strip().decode()
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
        "One day, she saw a big, red ball."
    )
    main(["convert", "llama", out, str(tmp_path / "back.bin")])
    before, after = (folder / "stories260K.bin").read_bytes(), (tmp_path / "back.bin").read_bytes()
    tables = 2 * 4 * 512 * 4  # of cosines and sines, which nobody reads
    assert after[:-tables] == before[:-tables] and len(after) == len(before)
    main(["convert", "llama", out, str(tmp_path / "hf.safetensors")])
    main(["convert", "llama", str(tmp_path / "hf.safetensors"), str(tmp_path / "again"),
          "--config", str(tmp_path / "hf.json")])  # fmt: skip
    again, params_again = lmlab.load(str(tmp_path / "again"))
    np.testing.assert_array_equal(
        logits(again, params_again, np.array([ids])), logits(model, params, np.array([ids]))
    )


def test_bad_input_ends_in_one_sentence_and_leaves_nothing(tmp_path, capsys):
    weights = random_weights(LLAMA)
    family, file, config_file = write(tmp_path, weights, LLAMA)
    whole = (tmp_path / "model.safetensors").read_bytes()

    def refused(*argv):
        with pytest.raises(SystemExit) as error:
            main(["convert", *map(str, argv)])
        said = capsys.readouterr().err
        assert error.value.code == 2 and said.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return said

    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    cut = tmp_path / "cut.safetensors"
    assert "truncated or damaged" in refused("llama", cut, tmp_path / "out", "--config", config_file)
    assert "needs --config" in refused("llama", file, tmp_path / "out")
    assert "has model_type 'gpt2', not 'llama'" in refused("gpt2", file, tmp_path / "out", "--config", config_file)
    for change, sentence in {
        "num_key_value_heads=3": "do not share 3 keys",
        "hidden_size=18": "other shapes for",
        "num_hidden_layers=3": "lacks 9 of the model's",
        "num_hidden_layers=1": "tensors that the model has not",
        "attention_bias=true": "attention_bias False, not True",
        'rope_scaling={"rope_type": "yarn"}': "not 'yarn'",
        "vocab_size=0": "vocab_size of the config must be a positive integer",
    }.items():
        key, _, value = change.partition("=")
        (tmp_path / "other.json").write_text(json.dumps(LLAMA | {key: json.loads(value)}))
        assert sentence in refused("llama", file, tmp_path / "out", "--config", tmp_path / "other.json")
    (tmp_path / "short.bin").write_bytes(np.array([64, 172, 5, 8, 4, 512, 512], np.int32).tobytes() + bytes(100))
    assert "takes 1,056,540" in refused("llama", tmp_path / "short.bin", tmp_path / "out")
    (tmp_path / "none.bin").write_bytes(bytes(100))
    assert "is not a model of llama2.c" in refused("llama", tmp_path / "none.bin", tmp_path / "out")
    import_checkpoint("gpt2", *write(tmp_path, random_weights(GPT2), GPT2)[1:], str(tmp_path / "gpt2"))
    assert "is no Llama" in refused("llama", tmp_path / "gpt2", tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="exists already"):
        export_checkpoint("gpt2", str(tmp_path / "gpt2"), file)


def test_a_kept_tokenizer_lets_a_model_write(tmp_path, capsys):
    tokenizer = train_bpe([b"the reader reads what the writer writes " * 9], 270)
    tokenizer.save(tmp_path / "tokenizer.json")
    config = LLAMA | {"vocab_size": 270}
    family, file, config_file = write(tmp_path, random_weights(config), config)
    argv = ["convert", family, file, str(tmp_path / "out"), "--tokenizer", str(tmp_path / "tokenizer.json")]
    main([*argv, "--config", config_file])
    main(["sample", str(tmp_path / "out"), "--bytes", "8", "--prompt", "the reader"])
    assert "the reader" in capsys.readouterr().out
    (tmp_path / "small.json").write_text(json.dumps(LLAMA))
    with pytest.raises(SystemExit):
        main([*argv[:3], str(tmp_path / "other"), *argv[4:], "--config", str(tmp_path / "small.json")])
    assert "has 268 ids but the model only 50" in capsys.readouterr().err and not (tmp_path / "other").exists()
    MultiWordTokenizer(tokenizer, (b"the writer",)).save(tmp_path / "words.json")
    with pytest.raises(SystemExit):
        main([*argv[:3], str(tmp_path / "other"), "--tokenizer", str(tmp_path / "words.json"), "--config", config_file])
    assert "not multi-word tokens" in capsys.readouterr().err and not (tmp_path / "other").exists()
