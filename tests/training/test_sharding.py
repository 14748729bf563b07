"""Many devices equal one; meshes that do not fit are refused."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import pytest

from lmlab.data.corruptions import SpanCorruption
from lmlab.data.sampled_tokenizers import SampledTokenizers
from lmlab.errors import UserError
from lmlab.models.encoder_decoder import t5
from lmlab.text.sampled import Sampler
from lmlab.training.sharding import Mesh, check_rows, make_mesh, parameter_shardings
from tests import eight_devices
from tests.training import tiny

CODE = """
import dataclasses, pathlib, sys
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
from lmlab.kernels.dispatch import compiled_for, rows_to_join
from lmlab.models.language_model import init
from lmlab.training.sharding import Mesh, batch_sharding, make_mesh, place
from lmlab.training.step import make_init, make_step
from tests.training import tiny

base = tiny.run(pathlib.Path(sys.argv[1]))
backbone = base.model.backbone.clone(capacity=(1.0, 2.0))  # exact: all devices must choose the same capacity
base = dataclasses.replace(base, model=base.model.clone(backbone=backbone))
rng = np.random.default_rng(0)
tokens = rng.integers(97, 110, (8, 33)).astype(np.int32)
batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segment_ids": np.ones((8, 32), np.int32),
         "weights": np.ones((8, 32), np.float32), "target_bytes": np.ones((8, 32), np.int32)}
batch["segment_ids"][:, 20:] = 2
batch["weights"][3, 5:9] = 0
results = []
for devices, mesh, joined in ((1, Mesh(), 4), (8, Mesh(), 1), (8, Mesh(data=2, fsdp=4), 1),
                              (8, Mesh(data=2, fsdp=2, tensor=2), 1), (8, Mesh(data=2, tensor=4), 2)):
    run = dataclasses.replace(base, mesh=mesh)
    m = make_mesh(mesh, jax.devices()[:devices])
    with compiled_for(m):
        assert rows_to_join(8) == joined
    optimizer = run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, m)
    step = make_step(run, optimizer, m, shardings)
    state = init(jax.random.key(0))
    for _ in range(3):
        state, metrics = step(state, place(batch, batch_sharding(m)))
    results.append((jax.device_get(state.params), jax.device_get(metrics)))
    # The second of 64, 128 and 256 slots is chosen, however many rows share them.
    assert metrics["stage0/slots"] == 128
    kernel = state.params["params"]["backbone"]["inner"]["layers_0"]["mlp"]["wi"]
    assert len({str(s.index) for s in kernel.addressable_shards}) == mesh.shape(devices)[1] * mesh.shape(devices)[3]
for params, metrics in results[1:]:
    np.testing.assert_allclose(metrics["loss"], results[0][1]["loss"], rtol=1e-5)
    for name in ("stage0/starts", "stage0/overflow"):
        assert metrics[name] == results[0][1][name]
    assert metrics["stage0/overflow"] == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), params, results[0][0])
print("equal")
"""


def test_eight_devices_equal_one(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    env = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]


def test_eight_devices_that_split_positions_equal_one():
    """What they hold is in devices_split.py."""
    eight_devices.run(pathlib.Path(__file__).with_name("devices_split.py"))


@pytest.mark.parametrize("boxed, sentence", [
    (lambda shape: nn.LogicallyPartitioned(shape, ("embd", None)), r"a/b names the logical axes \['embd'\], which no rule"),
    (lambda shape: shape, r"a/b of shape \(4, 2\) names no logical axes"),
])  # fmt: skip
def test_a_parameter_that_no_rule_lays_out_is_named(boxed, sentence):
    tree = {"a": {"b": boxed(jax.ShapeDtypeStruct((4, 2), "float32"))}}
    with pytest.raises(ValueError, match=sentence):
        parameter_shardings(tree, make_mesh(Mesh(), jax.devices()[:1]))


@pytest.mark.parametrize("mesh", [Mesh(data=3), Mesh(fsdp=3), Mesh(data=-1, fsdp=-1), Mesh(data=0), Mesh(sequence=5)])
def test_meshes_that_do_not_fit(mesh):
    with pytest.raises(UserError, match="does not divide 8 devices"):
        mesh.shape(8)


def test_shapes():
    assert Mesh().shape(8) == (8, 1, 1, 1)
    assert Mesh(data=-1, fsdp=2, tensor=2).shape(8) == (2, 2, 1, 2)
    assert Mesh(data=2, sequence=-1).shape(8) == (2, 1, 4, 1)


def test_rows_whose_positions_do_not_divide_are_refused(tmp_path):
    four = make_mesh(Mesh(data=2, sequence=4), [jax.devices()[0]] * 8)
    check_rows(tiny.run(tmp_path, length=64), four)
    with pytest.raises(UserError, match="^Rows of 66 positions do not divide over sequence=4 devices.$"):
        check_rows(tiny.run(tmp_path, length=66), four)
    with pytest.raises(UserError, match="9 rows does not divide over 2 devices"):
        check_rows(tiny.run(tmp_path, batch_size=9), four)


def test_sources_and_targets_that_do_not_divide_are_refused(tmp_path):
    spans = SpanCorruption(mean_span=4.0)
    assert spans.lengths(64) == (57, 13)
    run = dataclasses.replace(tiny.run(tmp_path, length=64), corruption=spans, model=t5(272, (1, 1), 16, 32, 2, 8))
    two = make_mesh(Mesh(data=4, sequence=2), [jax.devices()[0]] * 8)
    with pytest.raises(UserError, match="^Rows of 13 positions do not divide over sequence=2 devices.$"):
        check_rows(run, two)


def test_parts_of_a_vocabulary_that_do_not_divide_are_called_what_they_are(tmp_path):
    four = make_mesh(Mesh(data=2, sequence=4), [jax.devices()[0]] * 8)
    run = dataclasses.replace(tiny.run(tmp_path, length=64), corruption=SampledTokenizers(Sampler(280), 4, old=16))
    with pytest.raises(UserError, match="^The 70 'pieces' of each row do not divide over sequence=4 devices.$"):
        check_rows(run, four)
    check_rows(dataclasses.replace(run, corruption=SampledTokenizers(Sampler(272), 4, old=16)), four)
