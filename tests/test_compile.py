"""Whole training steps compiled for TPUs that are not here."""

import dataclasses

import pytest

from lmlab import compile as ahead
from lmlab.errors import UserError
from lmlab.kernels import aot
from lmlab.models.build import hierarchy, transformer
from lmlab.models.language_model import LanguageModel, count_parameters
from lmlab.training.sharding import Mesh
from tests.training import tiny

needs_libtpu = pytest.mark.skipif(not aot.available(), reason="needs libtpu: pip install 'lmlab[tpu]'")


def wide(tmp_path, **changes):
    """An H-Net whose every part takes its TPU kernel."""
    backbone = hierarchy(["m1", ["T1"], "m1"], (128, 256), (0, 256), n_heads=2, d_state=128, target=4.0, capacity=2.0)
    run = tiny.run(tmp_path, model=LanguageModel(256, backbone), length=256, precision="bfloat16")
    return dataclasses.replace(run, **changes)


@needs_libtpu
def test_a_step_over_four_chips_runs_every_kernel(tmp_path):
    run = wide(tmp_path, mesh=Mesh(data=4))
    compiled = ahead.compile_step(run, "v5e:2x2")
    assert compiled.fits and compiled.chips == 4
    expected = {"linear_scan", "linear_scan_gradient", "ssd", "ssd_gradient", "gather", "spread", "spread_gradient"}
    expected |= {"causal_conv_silu", "causal_conv_silu_gradient"}
    assert expected <= compiled.kernels.keys() and any("splash" in name for name in compiled.kernels)
    reduced = sum(size for kind, (_, size) in compiled.collectives.items() if kind.startswith("all-reduce"))
    assert reduced > 2 * count_parameters(run.model)  # a bfloat16 gradient of every weight at least
    assert all(s > 0 for s in ahead.step_seconds(compiled).values()) and 0 < ahead.utilisation(run, compiled) < 1
    assert "utilisation" in "\n".join(ahead.describe(run, compiled))


@needs_libtpu
def test_our_count_of_flops_is_the_compilers(tmp_path):
    """Where nearly all FLOPs are products that both count whole: wide layers, a short row, loops of microbatches."""
    model = LanguageModel(256, transformer(2, 512, 4096, n_heads=4))
    run = tiny.run(tmp_path, model=model, length=128, batch_size=16, accumulate=4, mesh=Mesh(data=4))
    compiled = ahead.compile_step(run, "v5e:2x2")
    flops = compiled.product_flops + sum(flops for *_, flops in compiled.kernels.values())
    counted = 3 * sum(run.model.flops(run.length).values()) * run.batch_size * run.length
    assert flops * compiled.chips == pytest.approx(counted, rel=0.05) and not compiled.unknown_loops


@needs_libtpu
def test_what_does_not_fit_is_a_result_with_a_way_out(tmp_path):
    """A batch whose activations exceed a chip's memory names them, and fits in microbatches."""
    model = LanguageModel(256, transformer(1, 512, 8192, n_heads=4))
    run = tiny.run(tmp_path, model=model, length=512, batch_size=2048, mesh=Mesh(data=4), precision="bfloat16")
    lines = []
    changed, run, compiled = ahead.fit(run, "v5e:2x2", show=lines.append)
    text = "\n".join(lines)
    assert "does not fit" in text and "GB" in text and "trying remat=True" in text
    assert compiled.fits and run.remat and run.accumulate > 1 and changed == f"remat=True, accumulate={run.accumulate}"


def test_bad_targets_are_refused(tmp_path):
    run = tiny.run(tmp_path)
    with pytest.raises(UserError, match="such as v5p:4x4x4"):
        ahead.compile_step(run, "h100:8")
    with pytest.raises(UserError, match="--slices is at least 1"):
        ahead.compile_step(run, "v5e:2x2", 0)


@needs_libtpu
def test_a_batch_that_does_not_divide_is_refused_before_compiling(tmp_path):
    with pytest.raises(UserError, match="8 rows does not divide over 16 devices"):
        ahead.compile_step(tiny.run(tmp_path), "v5e:4x4")


def test_smaller_runs_come_in_order(tmp_path):
    run, given = tiny.run(tmp_path, batch_size=12, mesh=Mesh(data=2)), ahead.Compiled("v5e:2x1", 2, 1, 0.0, False, 0, None)
    names = []
    while following := ahead.smaller(run, given):
        name, run = following
        names.append(name)
    assert names == ["remat=True", *(f"remat=True, accumulate={n}" for n in (2, 3, 6))]
