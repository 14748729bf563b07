import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels import aot, convolution_tpu
from lmlab.kernels.convolution import causal_conv_silu_reference
from lmlab.kernels.convolution_tpu import causal_conv_silu_tpu
from tests.kernels.test_scan_tpu import STRICT, assert_no_race, block_traffic

K = 4


@pytest.fixture
def small(monkeypatch):
    """Blocks of a register's channels, loops that go round more often."""
    monkeypatch.setattr(convolution_tpu, "CHUNK", 128)
    monkeypatch.setattr(convolution_tpu, "WIDTH", 128)
    monkeypatch.setattr(convolution_tpu, "STEP", 16)


def inputs(B, L, C=128, dtype=jnp.float32):
    """(x, w, bias), and documents of 1 to 40 positions, one of which starts with the second chunk."""
    keys = jax.random.split(jax.random.key(0), 3)
    values = [jax.random.normal(k, s, dtype) for k, s in zip(keys, [(B, L, C), (K, C), (C,)], strict=True)]
    lengths = np.random.default_rng(0).choice([1, 2, 3, 4, 40], (B, L))
    starts = np.stack([np.isin(np.arange(L), [*np.cumsum(row), 128]) for row in lengths])
    return values, jnp.asarray(np.cumsum(starts, axis=1), jnp.int32)


def value_and_gradients(f, values, ids):
    def loss(*values):
        return jnp.sum(jnp.sin(f(*values, ids).astype(jnp.float32)))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*values)


@pytest.mark.parametrize(
    "B, L, C, packed, mode", [(1, 3, 128, False, True), (2, 256, 128, True, True), (1, 270, 256, True, STRICT)]
)
def test_values_and_gradients_equal_the_reference(B, L, C, packed, mode, small):
    values, ids = inputs(B, L, C)
    ids = ids if packed else None
    fast = value_and_gradients(functools.partial(causal_conv_silu_tpu, interpret=mode), values, ids)
    assert_no_race(mode)
    slow = value_and_gradients(causal_conv_silu_reference, values, ids)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-4), fast, slow)


def test_bfloat16_is_rounded_once(small):
    """At the end: values and gradients are those of float32 to half a unit in the last place."""
    values, ids = inputs(1, 150, dtype=jnp.bfloat16)

    @functools.partial(jax.jit, static_argnums=0)
    def run(f, g, *values):
        y, pull = jax.vjp(lambda *values: f(*values, ids), *values)
        return y, *pull(g)

    rounded = run(functools.partial(causal_conv_silu_tpu, interpret=True), values[0], *values)
    values = [v.astype(jnp.float32) for v in values]
    for ours, exact in zip(rounded, run(causal_conv_silu_reference, values[0], *values), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)


def test_what_a_document_holds_stays_there(small):
    """NaN included, in values and in gradients."""
    (x, w, bias), _ = inputs(1, 200)
    ids = (jnp.arange(200)[None] >= 128).astype(jnp.int32)

    @jax.jit
    def run(x):
        y, pull = jax.vjp(lambda x: causal_conv_silu_tpu(x, w, bias, ids, interpret=True), x)
        return y, *pull(y)

    for nothing, other in ((slice(0, 128), slice(128, 200)), (slice(128, 200), slice(0, 128))):
        for v in run(x.at[:, nothing].set(jnp.nan)):
            assert jnp.isfinite(v[:, other]).all() and jnp.isnan(v[:, nothing]).all()


def test_each_value_is_read_and_written_once(monkeypatch):
    B, L, C = 2, 4096, 2304
    x, w, since = jnp.zeros((B, L, C), jnp.bfloat16), jnp.zeros((K + 1, C)), jnp.zeros((B, L), jnp.int32)

    def run(w, since, x):
        convolution_tpu._conv_silu.fun(w, since, x, False)
        convolution_tpu._backward(False, (w, since, x), x)

    moved = block_traffic(monkeypatch, run, w, since, x)
    assert 2 * x.nbytes <= moved["causal_conv_silu"] < 1.01 * 2 * x.nbytes
    assert 3 * x.nbytes <= moved["causal_conv_silu_gradient"] < 1.02 * 3 * x.nbytes


@pytest.mark.skipif(not aot.available(), reason="needs libtpu: pip install 'lmlab[tpu]'")
def test_it_compiles_for_tpus():
    def program(topology, dtype, B, L, C):
        shapes = [jax.ShapeDtypeStruct(s, dtype) for s in ((B, L, C), (K, C), (C,))]
        ids = jax.ShapeDtypeStruct((B, L), jnp.int32)
        return "lmlab.kernels.convolution_tpu:causal_conv_silu_tpu", (*shapes, ids), topology, True

    programs = [program(t, jnp.bfloat16, 2, 4096, 2304) for t in aot.TOPOLOGIES]
    programs.append(program("v5e:2x2", jnp.float32, 1, 300, 384))
    for (_, (x, *_), *_), report in zip(programs, aot.compile_each(programs), strict=True):
        assert report.hlo.count('custom_call_target="tpu_custom_call"') == len(report.kernels) == 2
        if x.dtype == jnp.bfloat16:
            assert report.temporary_bytes < 0.01 * x.size * 2
