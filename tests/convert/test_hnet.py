"""Released H-Net weights to a directory that lmlab loads, and back: nothing lost, nothing guessed."""

import copy
import json
import os
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import lmlab
from lmlab.cli import main
from lmlab.convert import torch_file
from lmlab.convert.hnet import config_from_model, export_checkpoint, import_checkpoint, model_from_config
from lmlab.errors import UserError
from lmlab.models.build import transformer
from lmlab.models.chunkers import FixedStride
from lmlab.models.hnet_checkpoint import FLOAT32, from_state_dict, state_dict_shapes, to_state_dict
from lmlab.models.language_model import LanguageModel, abstract_init, count_parameters
from lmlab.training import checkpoints
from tests.models.test_hnet_parity import RELEASED
from tests.paths import SHARED, fixture
from tests.training import tiny

BF16 = ml_dtypes.bfloat16
CONFIG = {
    "arch_layout": ["m1", ["T1m1", ["T1"], "M1t1"], "m1"],
    "d_model": [32, 32, 64],
    "d_intermediate": [0, 48, 64],
    "vocab_size": 256,
    "ssm_cfg": {"chunk_size": 256, "d_conv": 4, "d_state": 8, "expand": 2},
    "attn_cfg": {"num_heads": [2, 4, 2], "rotary_emb_dim": [8, 4, 32], "window_size": [7, 3, -1]},
    "tie_embeddings": False,
}
SMALL = CONFIG | {
    "arch_layout": ["m1", ["T1"], "m1"],
    "d_model": [32, 64],
    "d_intermediate": [0, 48],
    "attn_cfg": {"num_heads": [2, 2], "rotary_emb_dim": [8, 32], "window_size": [7, -1]},
}
TOKENS = np.array([[254, *b"a b c, as easy as 1 2 3"], [254, *b"the chunks of a sequence"[:23]]], np.int32)


def released_config(name):
    layout, d_model, d_ff, _ = RELEASED[name]
    return CONFIG | {
        "arch_layout": layout,
        "d_model": list(d_model),
        "d_intermediate": list(d_ff),
        "ssm_cfg": {"chunk_size": 256, "d_conv": 4, "d_state": 128, "expand": 2},
        "attn_cfg": {
            "num_heads": [16] * len(d_model),
            "rotary_emb_dim": [width // 32 for width in d_model],
            "window_size": [1023] * (len(d_model) - 1) + [-1],
        },
    }


def random_weights(model, dtype, seed=0):
    """A state dict of the original's shapes and dtypes, nothing at its initial value."""
    rng, weights = np.random.default_rng(seed), {}
    for name, shape in state_dict_shapes(model, dtype).items():
        scale = 1 if name.endswith(("A_log", "dt_bias")) or len(shape.shape) < 2 else shape.shape[1] ** -0.5
        weights[name] = (scale * rng.standard_normal(shape.shape)).astype(shape.dtype)
    return weights


def assert_equal(got, expected):
    assert sorted(got) == sorted(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array)


def write(path, weights, config):
    """Paths of a checkpoint and its config, for `import_checkpoint`."""
    (path.parent / "config.json").write_text(json.dumps(config))
    (torch_file.write if path.suffix == ".pt" else checkpoints.write_arrays)(str(path), weights)
    return str(path), str(path.parent / "config.json")


def logits(model, params, tokens=TOKENS):
    return np.asarray(jax.jit(lambda p: model.apply(p, tokens).logits)(params))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(directory, the bfloat16 weights that it was made from) of SMALL."""
    folder = tmp_path_factory.mktemp("converted")
    weights = random_weights(model_from_config(SMALL), "bfloat16")
    import_checkpoint(*write(folder / "released.pt", weights, SMALL), str(folder / "model"))
    return str(folder / "model"), weights


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_to_and_from_are_inverse(dtype, tied):
    model = model_from_config(CONFIG | {"tie_embeddings": tied})
    weights = random_weights(model, dtype)
    if tied:
        weights["lm_head.weight"] = weights["embeddings.weight"]
    params = from_state_dict(weights, model)
    expected = nn.meta.unbox(abstract_init(model))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda a: a.shape, expected)
    assert_equal(to_state_dict(params, model), weights)
    assert {k for k, w in to_state_dict(params, model, BF16).items() if w.dtype == np.float32} == {
        k for k in weights if k.endswith(FLOAT32)
    }
    if tied:
        with pytest.raises(UserError, match="differ"):
            from_state_dict(weights | {"lm_head.weight": weights["lm_head.weight"] + 1}, model)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_through_files(dtype, suffix, tmp_path):
    model = model_from_config(CONFIG)
    weights = random_weights(model, dtype)
    out = str(tmp_path / "deep" / "model")
    import_checkpoint(*write(tmp_path / f"released{suffix}", weights, CONFIG), out)
    loaded, params = lmlab.load(out)
    assert loaded == model
    np.testing.assert_array_equal(
        logits(loaded, params), logits(model, jax.tree.map(jnp.asarray, from_state_dict(weights, model)))
    )
    back = tmp_path / "back" / f"again{suffix}"
    export_checkpoint(out, str(back))
    read = torch_file.read if suffix == ".pt" else checkpoints.read_arrays
    assert_equal(read(str(back)), weights)
    assert json.loads((tmp_path / "back" / "again.json").read_text()) == CONFIG
    assert sorted(os.listdir(tmp_path / "back")) == ["again.json", f"again{suffix}"]
    assert back.stat().st_mode == (tmp_path / "back" / "again.json").stat().st_mode
    export_checkpoint(out, str(tmp_path / "back" / "again.float32.pt"), "float32")
    floats = torch_file.read(str(tmp_path / "back" / "again.float32.pt"))
    assert_equal(floats, {k: w.astype(np.float32) for k, w in weights.items()})


def test_bfloat16_agrees_with_float32_and_decodes(converted):
    model, params = lmlab.load(converted[0])
    floats = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    exact, coarse = logits(model, floats), logits(model, params)
    assert coarse.dtype == np.float32
    # Starts whose p is close to 1/2 fall differently; before the first such position only rounding differs.
    np.testing.assert_allclose(coarse[:, :2], exact[:, :2], atol=0.1)

    @jax.jit
    def decode(params, tokens):
        valid, cache = jnp.ones((2, 8), bool), model.init_cache(2, 24)
        prefilled, cache = model.apply(params, tokens[:, :8], valid, cache, method="prefill")
        return prefilled, model.apply(params, tokens[:, 8], cache, method="step")[0]

    for weights, atol in [(params, 0.3), (floats, 1e-4)]:
        forward = logits(model, weights)
        prefilled, stepped = decode(weights, TOKENS)
        np.testing.assert_allclose(prefilled, forward[:, :8], atol=atol)
        np.testing.assert_allclose(stepped, forward[:, 8], atol=atol)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", ["hnet_lm_1stage.npz", "hnet_lm_2stage.npz"])
def test_logits_of_the_original(name, suffix, tmp_path):
    arrays = fixture(name)
    config = json.loads(str(arrays["config_json"]))
    weights = {k[2:]: arrays[k] for k in arrays.files if k.startswith("w/")}
    import_checkpoint(*write(tmp_path / f"released{suffix}", weights, config), str(tmp_path / "model"))
    model, params = lmlab.load(str(tmp_path / "model"))
    np.testing.assert_allclose(logits(model, params, arrays["input_ids"]), arrays["logits"], atol=1e-5)
    back = str(tmp_path / f"back{suffix}")
    export_checkpoint(str(tmp_path / "model"), back)
    assert_equal((torch_file.read if suffix == ".pt" else checkpoints.read_arrays)(back), weights)


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs(name):
    config = released_config(name)
    model = model_from_config(config)
    assert count_parameters(model) == RELEASED[name][-1]
    assert config_from_model(model) == config
    outer, inner = model.backbone.encoder, model.backbone
    while hasattr(inner, "inner"):
        inner = inner.inner
    assert (outer.window, inner.window) == (1024, None)
    assert model.backbone.chunker.target == (6.0 if "1stage" in name else 3.0)


@pytest.mark.parametrize("name", RELEASED)
def test_every_key_shape_and_dtype_of_the_released_models(name):
    path = SHARED / "fixtures" / "hnet_released_state_dict_keys.json"
    if not path.exists():
        pytest.skip("needs ../shared/fixtures/hnet_released_state_dict_keys.json, which is not on this machine")
    listing = json.loads(path.read_text())[name]
    assert listing["config"] == released_config(name)
    shapes = state_dict_shapes(model_from_config(listing["config"]), "bfloat16")
    assert {k: [list(s.shape), str(s.dtype)] for k, s in shapes.items()} == listing["keys"]


def set_path(config, path, value):
    config = copy.deepcopy(config)
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return config


@pytest.mark.parametrize(
    "path, value, sentence",
    [
        ("d_model", None, "has no 'd_model'"),
        ("attn_cfg.window_size", None, "attn_cfg of the H-Net config has no 'window_size'"),
        ("dropout", 0.1, "unknown key 'dropout'"),
        ("ssm_cfg.headdim", 64, "unknown key 'headdim'"),
        ("ssm_cfg", 4, "ssm_cfg of the H-Net config is not a JSON object"),
        ("ssm_cfg.d_conv", 3, "d_conv 4, not 3"),
        ("ssm_cfg.expand", "2", "expand 2, not '2'"),
        ("ssm_cfg.d_state", 0, "d_state"),
        ("vocab_size", True, "vocab_size"),
        ("tie_embeddings", "no", "tie_embeddings"),
        ("d_model", [32, 64], "list of 3 integers"),
        ("d_model", [32, 32.0, 64], "d_model of the H-Net config must be an integer"),
        ("d_model", [64, 32, 64], "shrinks inwards"),
        ("d_model", [40, 64, 64], "Mamba-2 heads"),
        ("d_intermediate", [0, 0, 64], "is 0 at a stage"),
        ("attn_cfg.num_heads", [2, 3, 2], "3 attention heads"),
        ("attn_cfg.rotary_emb_dim", [8, 16, 32], "rotary_emb_dim 16"),
        ("attn_cfg.window_size", [-2, 3, -1], "at least -1, not -2"),
        ("arch_layout", ["m1", ["T1"]], "does not nest"),
        ("arch_layout", ["m1", "T1", "m1"], "does not nest"),
        ("arch_layout", ["m1", ["T1m1", [4], "M1t1"], "m1"], "does not nest"),
        ("arch_layout", ["m1", ["Q1", ["T1"], "M1t1"], "m1"], "Layer string 'Q1'"),
        ("arch_layout", ["m1", ["T1"], "m1"], "list of 2 integers"),
    ],
)
def test_configs_that_do_not_fit(path, value, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        model_from_config(set_path(CONFIG, path, value))


def test_weights_that_do_not_fit():
    model = model_from_config(CONFIG)
    weights = random_weights(model, "float32")

    def refused(weights):
        with pytest.raises(UserError) as e:
            from_state_dict(weights, model)
        return str(e.value)

    gone = [k for k in weights if "main_network.encoder" in k]
    sentence = refused({k: w for k, w in weights.items() if k not in gone})
    assert f"lacks {len(gone)} of the model's {len(weights)} tensors, the first {gone[0]}" in sentence
    assert "has not: 1, the first 'backbone.extra'" in refused(weights | {"backbone.extra": np.zeros(2)})
    transposed = {k: w.T if k.endswith("mlp.fc1.weight") else w for k, w in weights.items()}
    assert "mlp.fc1.weight: (32, 96), not (96, 32)" in refused(transposed)
    assert "int8" in refused(weights | {"lm_head.weight": np.zeros((256, 32), np.int8)})


def test_models_that_the_original_has_not():
    model = model_from_config(CONFIG)
    backbone = model.backbone
    for other, sentence in [
        (model.clone(backbone=backbone.clone(chunker=FixedStride(4))), "no FixedStride"),
        (model.clone(backbone=backbone.clone(decoder=backbone.decoder.clone(d_state=16))), "not uniform"),
        (model.clone(backbone=backbone.clone(decoder=backbone.decoder.clone(window=5))), "not uniform"),
        (FixedStride(4), "no FixedStride"),
    ]:
        with pytest.raises(UserError, match=sentence):
            config_from_model(other)
    isotropic = LanguageModel(256, transformer(2, 64, 128, n_heads=2, window=8), tied=True)
    same = model_from_config(config_from_model(isotropic))
    assert same == isotropic.clone(backbone=isotropic.backbone.clone(depth=same.backbone.depth))
    trained = model.clone(backbone=backbone.clone(capacity=0.5, chunker=backbone.chunker.clone(target=5.0)))
    assert config_from_model(trained) == CONFIG


def test_a_run_directory_becomes_a_checkpoint(tmp_path):
    from lmlab.training.directory import claimed
    from lmlab.training.sharding import make_mesh
    from lmlab.training.step import make_init

    run, directory = tiny.run(tmp_path), str(tmp_path / "run")
    init, _ = make_init(run, run.optimizer.build(run.steps), make_mesh(run.mesh))
    state = init(jax.random.key(3))
    with claimed(run, directory), checkpoints.checkpointer(os.path.join(directory, "checkpoints")) as saved:
        checkpoints.save(saved, state, 4, wait=True)
    export_checkpoint(directory, str(tmp_path / "a.pt"))
    import_checkpoint(str(tmp_path / "a.pt"), str(tmp_path / "a.json"), str(tmp_path / "model"))
    model, params = lmlab.load(str(tmp_path / "model"))
    jax.tree.map(np.testing.assert_array_equal, params, state.params)
    assert config_from_model(model) == config_from_model(run.model)


def cli(capsys, *argv):
    """(exit code, stderr or stdout)."""
    code = 0
    try:
        main([str(a) for a in argv])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.err if code else captured.out


def test_command_line_round_trip(converted, capsys, tmp_path):
    directory, weights = converted
    for argv in [
        ("convert", "hnet", directory, tmp_path / "a.safetensors"),
        ("convert", "hnet", tmp_path / "a.safetensors", tmp_path / "b", "--config", tmp_path / "a.json"),
        ("convert", "hnet", tmp_path / "b", tmp_path / "c.pt", "--dtype", "bfloat16"),
    ]:
        assert cli(capsys, *argv) == (0, f"{argv[3]}\n")
    assert_equal(torch_file.read(tmp_path / "c.pt"), weights)


def test_sample_and_inspect_a_converted_model(converted, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").write_text("one two three")
    code, out = cli(capsys, "sample", converted[0], "--prompt", "ab", "--bytes", 4)
    assert code == 0 and out.startswith("ab")
    code, out = cli(capsys, "inspect", converted[0], tmp_path / "text")
    assert code == 0 and "three" in out
    code, err = cli(capsys, "inspect", converted[0])
    assert code == 2 and "name a text file" in err


def test_bad_input_ends_in_one_sentence(converted, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory, weights = converted
    released, config = write(tmp_path / "released.pt", weights, SMALL)
    whole = (tmp_path / "released.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    checkpoints.write_arrays("whole.safetensors", weights)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-1])
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "torn.json").write_text('{"arch_layout": ')
    (tmp_path / "other.json").write_text(json.dumps(SMALL | {"vocab_size": 300}))
    (tmp_path / "shut").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.json").write_text("{}")
    (tmp_path / "foreign.new").mkdir()
    (tmp_path / "foreign.new" / "mine").write_text("")
    before = sorted(os.listdir(tmp_path))
    for argv, sentence in [
        (["none.pt", "out", "--config", config], "Cannot read none.pt: No such file"),
        (["none.safetensors", "out", "--config", config], "Cannot read none.safetensors: No such file"),
        (["cut.pt", "out", "--config", config], "cut.pt is truncated or damaged"),
        (["cut.safetensors", "out", "--config", config], "cut.safetensors is truncated or damaged"),
        (["list.json", "out", "--config", config], "is not a file of torch.save"),
        ([released, "out"], "needs --config"),
        ([released, "out", "--config", "none.json"], "Cannot read none.json"),
        ([released, "out", "--config", "list.json"], "is not a JSON object"),
        ([released, "out", "--config", "torn.json"], "not valid JSON"),
        ([released, "out", "--config", "other.json"], "embeddings.weight: (256, 32), not (300, 32)"),
        ([released, "shut", "--config", config], "shut exists already"),
        ([released, "list.json/out", "--config", config], "Cannot write list.json/out"),
        ([released, "foreign", "--config", config], "Cannot write foreign: File exists"),
        ([released, "out", "--config", config, "--dtype", "float32"], "--dtype is for writing"),
        ([directory, "out"], "must end in .pt or .safetensors"),
        ([directory, "released.pt"], "released.pt exists already"),
        ([directory, "c.pt"], "c.json exists already and is the config of another model"),
        ([directory, "out.pt", "--config", config], "--config is for reading"),
        ([directory, "list.json/out.pt"], "Cannot write list.json/out.pt"),
        (["empty", "out.pt"], "empty is not a run directory"),
    ]:
        code, err = cli(capsys, "convert", "hnet", *argv)
        assert code == 2 and sentence in err and err.count("\n") == 1, (argv, err)
        assert sorted(os.listdir(tmp_path)) == before, argv


def test_a_killed_conversion_leaves_nothing_in_the_way(converted, tmp_path, monkeypatch):
    released, config = write(tmp_path / "released.pt", converted[1], SMALL)
    (tmp_path / "out.new").mkdir()
    (tmp_path / "out.new" / "model.json").write_text("{")
    import_checkpoint(released, config, str(tmp_path / "out") + os.sep)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "out", "released.pt"]

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    for call in [
        lambda: import_checkpoint(released, config, str(tmp_path / "more")),
        lambda: export_checkpoint(str(tmp_path / "out"), str(tmp_path / "more.safetensors")),
    ]:
        with pytest.raises(UserError, match="No space left"):
            call()
        assert sorted(os.listdir(tmp_path)) == ["config.json", "out", "released.pt"]


def test_a_damaged_directory_is_refused(converted, tmp_path):
    def refused():
        with pytest.raises(UserError) as e:
            lmlab.load(str(tmp_path / "m"))
        return str(e.value)

    model, params = lmlab.load(converted[0])
    checkpoints.save_model(str(tmp_path / "m"), model, params)
    path, description = tmp_path / "m" / "params.safetensors", tmp_path / "m" / "model.json"
    whole, text = path.read_bytes(), description.read_text()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "truncated or damaged" in refused()
    path.unlink()
    assert "Cannot read" in refused()
    path.write_bytes(whole)
    for other, sentence in [
        (text.replace('"vocab_size": 256', '"vocab_size": 300'), "does not fit"),
        (text.replace('"layout": "T1"', '"layout": "T2"'), "does not fit"),
        (text.replace("lmlab.models.stack:Stack", "os:system"), "not lmlab's"),
        ("[]", "does not describe a model"),
        ("{", "not valid JSON"),
    ]:
        description.write_text(other)
        assert sentence in refused()
