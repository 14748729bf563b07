import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from lmlab.errors import UserError
from lmlab.kernels import aot

needs_libtpu = pytest.mark.skipif(not aot.available(), reason="needs libtpu: pip install 'lmlab[tpu]'")


def scaled(x, scale):
    def kernel(x_ref, o_ref):
        o_ref[...] = scale * x_ref[...]

    block = pl.BlockSpec((256, 512), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    grid = (x.shape[0] // 256,)
    return pl.pallas_call(kernel, shape, grid=grid, in_specs=[block], out_specs=block, name="scaled")(x)


def looped(x, n, scale=2.0):
    """A kernel in a loop of three trips beside a product of matrices."""

    def body(x, _):
        return scaled(x, scale) @ x.T @ x, None

    return jax.lax.scan(body, x * n, None, length=3)[0]


def product(x, y, n):
    return x @ y, n + 1


@needs_libtpu
def test_a_program_is_compiled_for_each_topology():
    x = jnp.zeros((1024, 512))
    shapes = [x, jax.ShapeDtypeStruct((), jnp.float32)]
    programs = [(f"{__name__}:looped", shapes, t, False, {"scale": 3.0}) for t in aot.TOPOLOGIES]
    for report, topology in zip(aot.compile_each(programs), aot.TOPOLOGIES, strict=True):
        assert report.topology == topology and "tpu_custom_call" in report.hlo
        assert report.output_bytes == x.nbytes and x.nbytes <= report.argument_bytes <= x.nbytes + 4096
        (kernel,) = report.kernels
        assert kernel.name.startswith("scaled") and kernel.calls == 3 and kernel.bundles is None
        assert kernel.hbm_bytes + kernel.vmem_bytes == 2 * x.nbytes
        # Two products of 1024 x 1024 x 512 in each trip; no TPU here multiplies 4 * 256 * 256 pairs a cycle.
        assert report.unknown_loops == 0 and report.cycles > 3 * 2 * 1024 * 1024 * 512 / (4 * 256 * 256)
        assert report.flops > 2 * 2 * 1024 * 1024 * 512


@needs_libtpu
def test_gradients_take_cotangents_and_leave_integers_alone():
    shapes = [jnp.zeros((256, 384)), jnp.zeros((384, 128)), jnp.zeros((), jnp.int32)]
    name = f"{__name__}:product"
    forward, both = aot.compile_each([(name, shapes), (name, shapes, "v5e:2x2", True)])
    x, y, out = 4 * 256 * 384, 4 * 384 * 128, 4 * 256 * 128
    for report, arguments, outputs in [(forward, x + y, out), (both, x + y + out, x + y + out)]:
        assert arguments <= report.argument_bytes <= arguments + 4096
        assert outputs <= report.output_bytes <= outputs + 4096
        assert report.kernels == ()
    assert both.flops == 3 * forward.flops


@needs_libtpu
def test_bundles_are_counted_on_request():
    report = aot.compile_for_tpu(f"{__name__}:scaled", [jnp.zeros((1024, 512))], options={"scale": 2.0}, bundles=True)
    tiles = 256 * 512 // 1024
    assert tiles // 4 < report.kernels[0].bundles[1] < 4 * tiles


@needs_libtpu
def test_a_failure_shows_the_childs_last_words():
    with pytest.raises(RuntimeError, match="has no attribute 'absent'"):
        aot.compile_for_tpu("math:absent", [])


def test_without_libtpu_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(aot, "available", lambda: False)
    with pytest.raises(UserError, match=r"lmlab\[tpu\]"):
        aot.compile_for_tpu("math:sin", [])
