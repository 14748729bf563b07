"""Training steps whose rows and positions are split over eight devices equal those of one, and a run goes on where they
are split otherwise. Runs in the child process of test_sharding.py."""

import dataclasses
import os
import re
import signal

import jax
import numpy as np
import pytest

from lmlab.errors import Stopped
from lmlab.kernels import dispatch
from lmlab.kernels.hlo import read
from lmlab.models.build import hierarchy
from lmlab.models.language_model import LanguageModel
from lmlab.models.stack import Stack
from lmlab.training import loop
from lmlab.training.optimizers import AdamW, hnet_multipliers
from lmlab.training.sharding import Mesh, batch_sharding, make_mesh, place
from lmlab.training.step import make_init, make_step
from lmlab.training.writer import read_lines
from tests.training import tiny

L = 32
SPLIT, ALL = Mesh(data=2, sequence=4), Mesh(data=1, fsdp=2, sequence=2, tensor=2)


def batch():
    """Documents that start on an edge between devices, that span three of four devices, and padding."""
    tokens = np.random.default_rng(0).integers(97, 110, (4, L + 1)).astype(np.int32)
    ids = np.ones((4, L), np.int32)
    ids[0, L // 2 :] = 2
    ids[1, L // 8 : -3] = 2
    ids[1, -3:] = 3
    ids[2, -2:] = 0
    weights = (ids > 0).astype(np.float32)
    weights[3, 5:9] = 0
    names = ("tokens", "targets", "segment_ids", "weights", "target_bytes")
    return dict(zip(names, (tokens[:, :-1], tokens[:, 1:], ids, weights, weights.astype(np.int32)), strict=True))


def one_stage(capacity):
    return hierarchy(["m1", ["T1"], "m1"], (32, 64), (0, 64), n_heads=2, d_state=8, target=4.0, capacity=capacity)


TWO_STAGE = hierarchy(
    ["m1", ["t1", ["T1"], "t1"], "t1"],
    (32, 32, 64),
    (0, 0, 64),
    n_heads=2,
    d_state=8,
    window=6,
    target=2.0,
    capacity=(1.0, (0.5,), None),
)


@pytest.mark.parametrize(
    "backbone, meshes",
    [
        (Stack("T1t1m1", 32, 64, n_heads=2, rotary_dim=8, d_state=8), [SPLIT, ALL]),
        (one_stage(None), [SPLIT]),
        (one_stage(0.5), [Mesh(data=1, sequence=8)]),
        (one_stage(((0.5, 1.0), None)), [ALL]),
        (TWO_STAGE, [SPLIT]),
    ],
    ids=["stack", "full", "fixed", "exact", "two stages"],
)
def test_a_split_step_equals_one_devices(backbone, meshes, tmp_path):
    """Loss, metrics, gradients (the optimizer's first moments are their share) and parameters."""
    multipliers = hnet_multipliers((2.0,) * 2, (32, 32, 64)) if backbone is TWO_STAGE else (1.0, 1.0)
    optimizer = AdamW(1e-3, stage_multipliers=(1.0,) if isinstance(backbone, Stack) else multipliers)
    base = tiny.run(tmp_path, model=LanguageModel(256, backbone), optimizer=optimizer, batch_size=4, length=L)
    results, first = [], None
    for mesh in (None, *meshes):
        run = dataclasses.replace(base, mesh=mesh or Mesh())
        m = make_mesh(run.mesh, jax.devices()[: 8 if mesh else 1])
        built = run.optimizer.build(run.steps)
        init, shardings = make_init(run, built, m)
        first = jax.device_get(init(jax.random.key(0))) if first is None else first
        state = jax.device_put(first.replace(key=jax.random.key(1)), shardings)  # the step takes its buffers
        state, metrics = make_step(run, built, m, shardings)(state, place(batch(), batch_sharding(m)))
        results.append(jax.device_get((state.params, state.optimizer, metrics)))
    for params, moments, metrics in results[1:]:
        for name, value in results[0][2].items():
            np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7, rtol=1e-3), moments, results[0][1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), params, results[0][0])
    if backbone is not TWO_STAGE and not isinstance(backbone, Stack):
        overflows = results[0][2]["stage0/overflow"] > 0
        assert overflows == (backbone.capacity == 0.5)


def test_a_run_with_split_positions_accumulates_and_evaluates(tmp_path):
    changes = dict(steps=2, evaluate_every=2, checkpoint_every=2, evaluators=())
    whole, _ = loop.train(tiny.plain(tmp_path, **changes), tmp_path / "whole")
    split = tiny.plain(tmp_path, mesh=Mesh(data=2, sequence=4), accumulate=2, **changes)
    params, _ = loop.train(split, tmp_path / "split")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *jax.device_get((params, whole)))
    seen, expected = (
        next(line for line in read_lines(tmp_path / name) if line["kind"] == "evaluation") for name in ("split", "whole")
    )
    seen, expected = tiny.timeless(seen), tiny.timeless(expected)
    assert seen.keys() == expected.keys() and seen.pop("split") == expected.pop("split") == "validation"
    for name in {"kind"} ^ expected.keys():
        np.testing.assert_allclose(seen[name], expected[name], rtol=1e-4, err_msg=name)


def test_a_tpus_kernels_run_on_every_devices_part(tmp_path, monkeypatch):
    """Lowered for TPUs, the kernels inside the program and no form of XLA's in their place."""
    monkeypatch.setattr(dispatch, "_on_tpu", lambda: True)
    backbone = hierarchy(["m1", ["T1"], "m1"], (128, 256), (0, 256), n_heads=2, d_state=128, target=4.0, capacity=2.0)
    changes = dict(model=LanguageModel(256, backbone), length=1024, batch_size=8, precision="bfloat16", mesh=SPLIT)
    run, m = tiny.run(tmp_path, **changes), make_mesh(SPLIT)
    built = run.optimizer.build(run.steps)
    init, shardings = make_init(run, built, m)
    state = jax.eval_shape(init, jax.random.key(0))
    arrays = {k: jax.ShapeDtypeStruct((8, 1024), v.dtype) for k, v in batch().items()}
    traced = make_step(run, built, m, shardings).trace(state, arrays)
    kernels = set(re.findall(r'kernel_name = "(\w+)"', traced.lower(lowering_platforms=("tpu",)).as_text()))
    expected = {"linear_scan", "ssd", "causal_conv_silu", "gather", "spread"}
    assert {k for name in expected for k in (name, name + "_gradient")} <= kernels
    assert sum(k.startswith("splash") for k in kernels) == 3


def test_a_mamba_step_gathers_nothing(tmp_path):
    """States, halos and the gradients of weights, less than one activation of a device's part, and nothing else."""
    rows, length, width = 8, 1024, 64
    model = LanguageModel(256, Stack("m1", width, d_state=16))
    changes = dict(model=model, optimizer=AdamW(1e-3), length=length, batch_size=rows, mesh=SPLIT)
    run, m = tiny.run(tmp_path, **changes), make_mesh(SPLIT)
    built = run.optimizer.build(run.steps)
    init, shardings = make_init(run, built, m)
    state = jax.eval_shape(init, jax.random.key(0))
    arrays = {k: jax.ShapeDtypeStruct((rows, length), v.dtype) for k, v in batch().items()}
    collectives = read(make_step(run, built, m, shardings).lower(state, arrays).compile().as_text()).collectives
    assert {kind.split()[0] for kind in collectives} == {"collective-permute", "all-reduce"}, collectives
    part = rows // 2 * length // 4 * width * 4
    assert 0 < collectives["collective-permute f32"][1] < part, collectives
    weights = 4 * sum(v.size for v in jax.tree.leaves(state.params))
    assert collectives["all-reduce f32"][1] < 2.1 * weights, collectives  # over data and over sequence


def test_a_run_goes_on_where_parameters_are_split_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    run, path = tiny.plain(tmp_path), tmp_path / "moved"
    params, _ = loop.train(run, tmp_path / "whole")

    def stop(step, values):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        loop.train(dataclasses.replace(run, mesh=Mesh(data=2, fsdp=4)), path, stop)
    assert 4 <= read_lines(path)[-1]["step"] < run.steps
    moved, _ = loop.train(dataclasses.replace(run, mesh=Mesh(data=1, fsdp=2, tensor=4)), path)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4), params, moved)
    of = lambda folder: [line["loss"] for line in read_lines(folder) if line["kind"] == "train"]  # noqa: E731
    np.testing.assert_allclose(of(path), of(tmp_path / "whole"), rtol=1e-4)
