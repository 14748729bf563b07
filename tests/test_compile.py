"""Whole training steps compiled for TPUs that are not here."""

import dataclasses

import pytest

from lmlab import compile as ahead
from lmlab import experiment
from lmlab.cli import main
from lmlab.errors import UserError
from lmlab.kernels import aot
from lmlab.models.build import hierarchy, transformer
from lmlab.models.language_model import LanguageModel, count_parameters
from lmlab.models.stack import Stack
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
    run = wide(tmp_path, mesh=Mesh(data=2, fsdp=2))
    compiled = ahead.compile_step(run, "v5e:2x2", quick=True)
    assert compiled.fits and compiled.chips == 4
    expected = {"linear_scan", "linear_scan_gradient", "ssd", "ssd_gradient", "gather", "spread", "spread_gradient"}
    expected |= {"causal_conv_silu", "causal_conv_silu_gradient"}
    assert expected <= compiled.kernels.keys() and any("splash" in name for name in compiled.kernels)
    assert not {"all-reduce bf16", "reduce-scatter bf16"} & compiled.collectives.keys()
    reduced = sum(compiled.collectives[f"{kind} f32"][1] for kind in ("all-reduce", "reduce-scatter"))
    assert reduced > 4 * count_parameters(run.model)  # every gradient, in float32
    weights = compiled.collectives["all-gather bf16"][1]  # of fsdp, forward and backward, in what products compute in
    assert weights < 2 * 2 * 1.1 * count_parameters(run.model)
    assert compiled.collectives.get("all-gather f32", (0, 0))[1] < 0.1 * weights
    assert all(s > 0 for s in ahead.step_seconds(compiled).values()) and 0 < ahead.utilisation(run, compiled) < 1
    assert "utilisation" not in "\n".join(ahead.describe(run, compiled))  # of a program optimised less
    assert "utilisation" in "\n".join(ahead.describe(run, dataclasses.replace(compiled, quick=False)))


@needs_libtpu
def test_a_step_whose_positions_are_split_over_chips_runs_its_kernels_too(tmp_path):
    run = wide(tmp_path, mesh=Mesh(data=2, sequence=2))
    compiled = ahead.compile_step(run, "v5e:2x2", quick=True)
    assert compiled.fits and compiled.chips == 4
    assert {"linear_scan", "linear_scan_gradient", "ssd", "ssd_gradient"} <= compiled.kernels.keys()
    assert any("splash" in name for name in compiled.kernels)
    assert any(kind.startswith("collective-permute") for kind in compiled.collectives)  # what runs over a seam
    rows = run.batch_size // 2 * run.length * 256 * 4  # bytes of one layer's activations in a chip's rows
    gathered = sum(moved for kind, (_, moved) in compiled.collectives.items() if kind.startswith("all-gather"))
    assert gathered < 4 * rows  # the keys of attention, and little else


BACKBONES = {
    "transformer": lambda: transformer(2, 512, 4096, n_heads=4),
    "mamba": lambda: Stack("m2", 1024, d_state=16),
    "hnet": lambda: hierarchy(
        ["m1", ["T2"], "m1"], (1024, 1024), (0, 4096), n_heads=8, d_state=16, target=4.0, capacity=1.0
    ),
}


@needs_libtpu
@pytest.mark.parametrize("kind", BACKBONES)
def test_our_count_of_flops_is_the_compilers(kind, tmp_path):
    """Where nearly all FLOPs are products that both count whole: wide layers, a short row, loops of microbatches."""
    model = LanguageModel(256, BACKBONES[kind]())
    run = tiny.run(tmp_path, model=model, length=128, batch_size=16, accumulate=4, mesh=Mesh(data=4))
    compiled = ahead.compile_step(run, "v5e:2x2", quick=True)
    flops = compiled.product_flops + sum(flops for *_, flops in compiled.kernels.values())
    counted = 3 * sum(run.model.flops(run.length).values()) * run.batch_size * run.length
    assert flops * compiled.chips == pytest.approx(counted, rel=0.05) and not compiled.unknown_loops


@needs_libtpu
def test_what_does_not_fit_is_a_result_with_a_way_out(tmp_path):
    """A batch whose activations exceed a chip's memory names them, and fits in microbatches."""
    model = LanguageModel(256, transformer(1, 512, 8192, n_heads=4))
    run = tiny.run(tmp_path, model=model, length=512, batch_size=2048, mesh=Mesh(data=4), precision="bfloat16")
    lines = []
    changed, run, compiled = ahead.fit(run, "v5e:2x2", show=lines.append, quick=True)
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
    assert names == ["remat=True", "accumulate=2", "accumulate=3", "accumulate=6"]


def test_a_state_that_fills_the_chips_is_split_first(tmp_path):
    run = tiny.run(tmp_path, mesh=Mesh(data=-1))
    given = ahead.Compiled("v5e:4x4", 16, 1, 0.0, False, 20 * 10**9, 16 * 10**9, argument_bytes=18 * 10**9)
    name, run = ahead.smaller(run, given)
    assert name == "mesh.fsdp=8" and run.mesh.shape(16) == (2, 8, 1, 1)  # a quarter of a chip at most
    assert ahead.smaller(run, given)[0] == "remat=True"


@needs_libtpu
def test_slices_are_joined_by_the_network(tmp_path):
    """Between slices goes a float32 gradient of every weight, split over the chips of a slice, at the network's speed."""
    model = LanguageModel(256, transformer(1, 256, 512, n_heads=2))
    run = tiny.run(tmp_path, model=model, length=128, batch_size=8, mesh=Mesh(data=2, fsdp=4), precision="bfloat16")
    compiled = ahead.compile_step(run, "v5e:2x2", slices=2, quick=True)
    sent = compiled.collectives["between slices f32"][1]
    assert sent == pytest.approx(count_parameters(model), rel=0.1)  # of 4 chips each a quarter, 4 bytes per weight
    assert ahead.step_seconds(compiled)["network"] == pytest.approx(sent / 3.125e9, rel=0.01)
    assert "network" in "\n".join(ahead.describe(run, dataclasses.replace(compiled, quick=False)))


def test_rows_are_put_into_a_table(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n\n{ahead.HEADER}\n| p/a | old |\n| p/b | kept |\n\nafter\n")
    ahead.put_row(page, "| p/a | new |")
    ahead.put_row(page, "| p/c | added |")
    rows = "| p/a | new |\n| p/b | kept |\n| p/c | added |"
    assert page.read_text() == f"before\n\n{ahead.HEADER}\n{rows}\n\nafter\n"
    with pytest.raises(UserError, match="has no table of compiled arms"):
        ahead.put_row(tmp_path / "other.md", "| p/a | new |")


def test_the_default_slice_is_one_over_which_the_rows_divide(tmp_path):
    for rows, mesh, topology in [
        (128, Mesh(data=-1), "v5p:4x4x4"),
        (24, Mesh(data=-1), "v5p:2x2x2"),
        (24, Mesh(data=-1, tensor=2), "v5p:2x2x4"),
        (8, Mesh(data=4), "v5p:2x2x1"),
        (2, Mesh(data=-1), "v5e:1x1"),
    ]:
        assert ahead.default_topology(tiny.run(tmp_path, batch_size=rows, mesh=mesh)) == topology
    assert ahead.default_topology(tiny.run(tmp_path, batch_size=24), slices=2) == "v5p:2x2x1"


@needs_libtpu
def test_a_single_chip_is_a_slice_too(tmp_path):
    compiled = ahead.compile_step(tiny.run(tmp_path, batch_size=1), "v5e:1x1", quick=True)
    assert compiled.fits and compiled.chips == 1 and not compiled.collectives


@needs_libtpu
def test_an_arm_that_cannot_be_compiled_is_a_row_and_the_rest_follow(tmp_path, monkeypatch):
    """Of all papers those with the scale; an arm whose rows divide over no slice does not end the table."""
    page = tmp_path / "README.md"
    page.write_text(ahead.HEADER + "\n")
    seen = []

    def fit(run, topology, *_, **__):
        seen.append(topology)
        if len(seen) == 2:
            raise UserError("A batch of 2 rows does not divide.")
        return "", run, ahead.Compiled(topology, 64 if topology == ahead.DEFAULTS[0] else 1, 1, 1.0, False, 0, None)

    monkeypatch.setattr(ahead, "fit", fit)
    monkeypatch.setattr(experiment, "names", lambda: ["bytes", "ebyte", "hnet_dna"])
    with pytest.raises(SystemExit) as end:
        main(["compile", "--all", "--table", str(page)])
    assert end.value.code == 74
    rows = page.read_text().splitlines()[2:]
    assert [row.split(" | ")[0][2:] for row in rows] == [p for n in ("ebyte", "hnet_dna") for p in experiment.arms_of(n, "paper")]
    assert "not compiled: A batch of 2 rows does not divide." in rows[1] and "too much" in rows[2]
    seen.clear()
    with pytest.raises(SystemExit) as end:  # of a slice that was asked for, it is the user's mistake
        main(["compile", "ebyte", "--table", str(page), "--topology", "v5p:4x4x4"])
    assert end.value.code == 2
    with pytest.raises(SystemExit) as end:
        main(["compile", "--all", "--scale", "papper", "--table", str(page)])
    assert end.value.code == 2
