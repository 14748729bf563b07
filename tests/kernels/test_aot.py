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


@pytest.mark.parametrize(
    "text, hbm, other",
    [
        ("f32[2,9,1]{2,1,0:T(8,128)}", 2 * 16 * 128 * 4, 0),
        ("f32[9,200]{0,1:T(8,128)S(1)}", 0, 128 * 200 * 4),  # column-major: 200 rows of 9
        ("bf16[3,8,128]{2,1,0:T(8,128)(2,1)}", 3 * 8 * 128 * 2, 0),
        ("pred[100]{0:T(512)}", 512, 0),
        ("(s32[]{:T(128)S(6)}, f32[4]{0}, u8[2,4]{1,0})", 24, 4),
    ],
)
def test_values_are_counted_padded_to_their_tiles(text, hbm, other):
    assert aot.shape_bytes(text) == (hbm, other)


HLO = """HloModule jit_f, is_scheduled=true

%body (t: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %one = s32[]{:T(128)} constant(1)
  %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %next = s32[]{:T(128)} add(%i, %one)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %k.2 = f32[8,128]{1,0:T(8,128)} custom-call(%x, %i), custom_call_target="tpu_custom_call", metadata={}
  %y = f32[8,128]{1,0:T(8,128)} fusion(%k.2), calls=%inner, backend_config={"estimated_cycles":"100"}
  ROOT %out = (s32[]{:T(128)}, /*index=1*/f32[8,128]{1,0:T(8,128)}) tuple(%next, %y)
}

%condition (t.1: (s32[], f32[8,128])) -> pred[] {
  %bound = s32[]{:T(128)} constant(7)
  %t.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%t.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

ENTRY %main.4 (x.1: f32[8,128]) -> f32[8,128] {
  %two = s32[]{:T(128)} constant(2)
  %x.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %start = s32[]{:T(128)} copy(%two)
  %z = f32[8,128]{1,0:T(8,128)} fusion(%x.1), calls=%inner.1, backend_config={"estimated_cycles":"30"}
  %tuple = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%start, %z)
  %while = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%tuple), condition=%condition, body=%body
  ROOT %last = f32[8,128]{1,0:T(8,128)} get-tuple-element(%while), index=1
}
"""


@pytest.mark.parametrize(
    "old, new, trips, unknown",
    [
        ("", "", 5, 0),
        ("condition=%condition", 'condition=%condition, backend_config={"known_trip_count":{"n":"9"}}', 9, 0),
        ("copy(%two)", "negate(%two)", 1, 1),
        ("constant(1)", "constant(3)", 1, 1),
    ],
)
def test_cycles_and_kernels_are_multiplied_by_trip_counts(old, new, trips, unknown):
    cycles, unknown_loops, kernels = aot.read_hlo(HLO.replace(old, new))
    assert cycles == 30 + 100 * trips and unknown_loops == unknown
    assert kernels == [("k.2", trips, 2 * 8 * 128 * 4 + 4, 0)]
