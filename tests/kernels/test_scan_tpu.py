import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lmlab.kernels import aot, scan, scan_tpu

STRICT = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")


def assert_no_race(mode):
    assert mode is True or not interpreter.races.races_found


def block_traffic(monkeypatch, call, *args):
    """Bytes that the blocks of the kernels in `call(*args)` move: one whenever a block's index changes, cut at the
    array's end. Operands without blocks count nothing. {kernel: bytes}."""
    moved = {}

    def record(kernel, shapes, *, name, grid=None, in_specs=None, out_specs=None, grid_spec=None, **_):
        scalars = 0
        if grid_spec is not None:
            grid, in_specs, out_specs = grid_spec.grid, grid_spec.in_specs, grid_spec.out_specs
            scalars = grid_spec.num_scalar_prefetch

        def run(*operands):
            values = [np.asarray(v) for v in operands[:scalars]]
            moved[name] = sum(v.nbytes for v in values)
            specs, results = jax.tree.leaves([in_specs, out_specs]), jax.tree.leaves(shapes)
            for spec, array in zip(specs, [*operands[scalars:], *results], strict=True):
                if spec.block_shape is None:
                    continue
                before = None
                for point in itertools.product(*map(range, grid)):
                    at = tuple(int(v) for v in spec.index_map(*point, *values))
                    if at != before:
                        sides = [min(n, d - i * n) for n, d, i in zip(spec.block_shape, array.shape, at, strict=True)]
                        assert min(sides) > 0
                        moved[name] += math.prod(sides) * array.dtype.itemsize
                    before = at
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        return run

    monkeypatch.setattr(pl, "pallas_call", record)
    call(*args)
    return moved


def inputs(B, L, D):
    keys = jax.random.split(jax.random.key(0), 4)
    a_BL = jax.random.uniform(keys[0], (B, L)) * (jax.random.uniform(keys[1], (B, L)) > 0.1)
    return a_BL, jax.random.normal(keys[2], (B, L, D)), jax.random.normal(keys[3], (B, D))


def value_and_gradients(f, *args):
    return jax.jit(jax.value_and_grad(lambda *args: jnp.sum(jnp.sin(f(*args))), argnums=(0, 1, 2)))(*args)


@pytest.mark.parametrize(
    "B, L, D, mode", [(2, 1, 3, True), (2, 75, 5, True), (1, 300, 200, True), (1, 270, 150, STRICT)]
)
def test_values_and_gradients_equal_the_step_recurrence(B, L, D, mode, monkeypatch):
    """Blocks of 128 channels: each gives its part of the decays' gradient, and the last may hang over the end."""
    monkeypatch.setattr(scan_tpu, "WIDTH", 128)
    args = inputs(B, L, D)
    fast = value_and_gradients(functools.partial(scan_tpu.linear_scan_tpu, interpret=mode), *args)
    assert_no_race(mode)
    slow = value_and_gradients(scan.linear_scan_reference, *args)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=5e-5), fast, slow)


def test_decays_from_zero_to_one_stay_accurate_and_finite():
    _, b, h0 = inputs(1, 400, 4)
    a = jnp.concatenate([jnp.full((1, 100), 1e-4), jnp.full((1, 299), 0.999), jnp.zeros((1, 1))], axis=1)
    h = scan_tpu.linear_scan_tpu(a, b, h0, interpret=True)
    np.testing.assert_allclose(h, scan.linear_scan_reference(a, b, h0), atol=5e-5, rtol=1e-5)
    np.testing.assert_array_equal(h[:, -1], b[:, -1])


def test_a_zero_lets_nothing_through():
    a, b, h0 = inputs(1, 300, 2)
    a = a.at[:, 260].set(0.0)  # in the second chunk
    f = functools.partial(scan_tpu.linear_scan_tpu, interpret=True)
    db, dh0 = jax.grad(lambda b, h0: jnp.sum(f(a, b, h0)[:, 260:]), argnums=(0, 1))(b, h0)
    assert not jnp.any(db[:, :260]) and not jnp.any(dh0) and jnp.all(db[:, 260] != 0)


def test_low_precision_inputs_are_added_up_in_float32():
    a, b = jnp.ones((1, 1000), jnp.bfloat16), jnp.ones((1, 1000, 1), jnp.bfloat16)
    h = scan_tpu.linear_scan_tpu(a, b, interpret=True)
    assert h.dtype == jnp.float32 and h[0, -1, 0] == 1000


def test_each_value_is_read_and_written_once(monkeypatch):
    B, L, D = 2, 1000, 2304
    a, b, h0 = jnp.zeros((B, L)), jnp.zeros((B, L, D)), jnp.zeros((B, D))

    def run(a, b, h0):
        scan_tpu._scan.fun(a, b, h0, False)
        scan_tpu._backward(False, (a, h0, b), b)

    moved = block_traffic(monkeypatch, run, a, b, h0)
    assert a.nbytes + 2 * b.nbytes <= moved["linear_scan"] < 1.01 * (a.nbytes + 2 * b.nbytes)
    assert 2 * a.nbytes + 3 * b.nbytes <= moved["linear_scan_gradient"] < 1.01 * (2 * a.nbytes + 3 * b.nbytes)


@pytest.mark.skipif(not aot.available(), reason="needs libtpu: pip install 'lmlab[tpu]'")
def test_it_compiles_for_tpus():
    B, L, D = 8, 2048, 1024
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((B, L), (B, L, D), (B, D))]
    odd = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 300), (2, 300, 1300), (2, 1300))]
    name = "lmlab.kernels.scan_tpu:linear_scan_tpu"
    programs = [(name, s, t, True) for t in aot.TOPOLOGIES for s in (shapes, odd)]
    for (_, (a, b, _), *_), report in zip(programs, aot.compile_each(programs), strict=True):
        assert report.hlo.count('custom_call_target="tpu_custom_call"') == len(report.kernels) == 2
        forward, gradient = sorted(k.hbm_bytes + k.vmem_bytes for k in report.kernels)
        if b.shape == (B, L, D):
            assert forward < 1.01 * 4 * B * L * (2 * D + 1) and gradient < 1.01 * 4 * B * L * (3 * D + 2)
            assert report.temporary_bytes < 0.01 * 4 * B * L * D
