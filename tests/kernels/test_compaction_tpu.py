import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels import aot, compaction, compaction_tpu
from tests.kernels.test_scan_tpu import STRICT, assert_no_race, block_traffic

PAIRS = [
    (compaction_tpu.gather_tpu, compaction.gather_reference),
    (compaction_tpu.spread_tpu, compaction.spread_reference),
]
CASES = {
    "short": (2, 7, 3, 3, 0.5),  # B, L, D, capacity, share of starts
    "odd": (2, 301, 5, 140, 0.4),
    "overflow": (2, 300, 256, 40, 0.5),  # two blocks of channels
    "dense": (1, 700, 3, 600, 0.95),  # slots of three blocks
    "sparse": (1, 300, 2, 600, 0.1),  # blocks of empty slots
    "all": (1, 300, 2, 300, 1.0),
}


def starts(B, L, share):
    """The last of several rows has no start."""
    start_BL = np.random.default_rng(0).random((B, L)) < share
    start_BL[:, 0] = True
    if B > 1:
        start_BL[-1] = False
    return jnp.asarray(start_BL)


def value_and_gradient(f, v, g):
    def run(v, g):
        out, pull = jax.vjp(f, v)
        return out, pull(g)[0]

    return jax.jit(run)(v, g)


@pytest.mark.parametrize(
    "case, dtype, mode",
    [
        ("short", jnp.float32, True),
        ("odd", jnp.bfloat16, True),
        ("overflow", jnp.float32, True),
        ("dense", jnp.bfloat16, True),
        ("all", jnp.float32, True),
        ("sparse", jnp.bfloat16, STRICT),
        ("odd", jnp.float32, STRICT),
        ("dense", jnp.float32, STRICT),
    ],
)
def test_values_and_gradients_equal_the_references(case, dtype, mode, monkeypatch):
    monkeypatch.setattr(compaction_tpu, "WIDTH", 128)
    B, L, D, C, share = CASES[case]
    c = compaction.compact(starts(B, L, share), C)
    x = jax.random.normal(jax.random.key(0), (B, L, D)).astype(dtype)
    z = jax.random.normal(jax.random.key(1), (B, C, D)).astype(dtype)
    for (fast, slow), v, g in zip(PAIRS, (x, z), (z, x), strict=True):
        got = value_and_gradient(lambda v, f=fast: f(v, c, interpret=mode), v, g)
        assert_no_race(mode)
        want = value_and_gradient(lambda v, f=slow: f(v, c), *(w.astype(jnp.float32) for w in (v, g)))
        np.testing.assert_array_equal(got[0], want[0].astype(dtype))
        if slow is compaction.gather_reference:
            np.testing.assert_array_equal(got[1], want[1].astype(dtype))
        else:
            rounding = 1e-6 if dtype == jnp.float32 else 2**-8
            np.testing.assert_allclose(*(np.float32(w[1]) for w in (got, want)), rtol=rounding, atol=5e-5)
        assert all(w.dtype == dtype for w in got)


def test_float32_sums_keep_all_bits():
    """They take three parts of 8 bits."""
    c = compaction.compact(jnp.zeros((1, 4), bool).at[0, 0].set(True), 1)
    g = jnp.asarray([1 + 2**-10 + 2**-23, -1.0, -(2.0**-10), 3 * 2.0**-20]).reshape(1, 4, 1)
    _, dz = value_and_gradient(lambda z: compaction_tpu.spread_tpu(z, c, interpret=True), jnp.zeros((1, 1, 1)), g)
    assert dz[0, 0, 0] == 2.0**-23 + 3 * 2.0**-20


def test_rows_that_are_not_needed_may_hold_anything():
    c = compaction.compact(starts(2, 301, 0.3), 130)
    x = jnp.where(c.kept_BL[..., None], 1.0, jnp.nan) * jnp.ones((2, 301, 4))
    np.testing.assert_array_equal(
        compaction_tpu.gather_tpu(x, c, interpret=True), jnp.broadcast_to(c.valid_BC[..., None], (2, 130, 4))
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_traffic_is_near_the_least_possible(monkeypatch, dtype, share):
    B, L, D, C = 2, 2000, 1024, int(2200 * share)
    c = compaction.compact(starts(1, L, share), C)
    c = jax.tree.map(lambda v: jnp.repeat(v, B, axis=0), c)
    kept = int(jnp.sum(c.kept_BL))
    x, z = jnp.zeros((B, L, D), dtype), jnp.zeros((B, C, D), dtype)
    row = D * x.dtype.itemsize

    def run():
        compaction_tpu._gather.fun(x, c, False)
        compaction_tpu._gather_backward(False, c, z)
        compaction_tpu._spread.fun(z, c, False)
        compaction_tpu._spread_backward(False, c, x)

    moved = block_traffic(monkeypatch, run)
    rows = (1 if dtype == jnp.float32 else 2) * kept  # gather's copies are no blocks: a row, or a pair of rows, each
    least = {"gather": kept * row + z.nbytes, **dict.fromkeys(["gather_gradient", "spread"], kept * row + x.nbytes)}
    least["spread_gradient"] = x.nbytes + z.nbytes
    assert moved.keys() == least.keys()
    for name in least:
        copied = rows * row if name == "gather" else 0
        bound = 1.55 if name == "gather" and dtype == jnp.bfloat16 else 1.2
        assert z.nbytes <= moved[name] and moved[name] + copied < bound * least[name], name


@functools.cache
def programs():
    def shapes(B, L, C, D, dtype):
        c = jax.eval_shape(functools.partial(compaction.compact, capacity=C), jax.ShapeDtypeStruct((B, L), bool))
        return jax.ShapeDtypeStruct((B, L, D), dtype), jax.ShapeDtypeStruct((B, C, D), dtype), c

    listed = []
    for topology in aot.TOPOLOGIES:
        for size in [(4, 8192, 2048, 1024, jnp.float32), (2, 301, 141, 300, jnp.bfloat16)]:
            x, z, c = shapes(*size)
            for name, v in (("gather", x), ("spread", z)):
                listed.append((f"lmlab.kernels.compaction_tpu:{name}_tpu", (v, c), topology, True))
    return listed


@pytest.mark.skipif(not aot.available(), reason="needs libtpu: pip install 'lmlab[tpu]'")
def test_it_compiles_for_tpus():
    for (function, (v, _), *_), report in zip(programs(), aot.compile_each(programs()), strict=True):
        name = function.partition(":")[2].removesuffix("_tpu")
        assert report.hlo.count('custom_call_target="tpu_custom_call"') == len(report.kernels) == 2
        assert sum("gradient" in k.name for k in report.kernels) == 1 and all(name in k.name for k in report.kernels)
        if v.dtype == jnp.float32:
            assert report.temporary_bytes < 0.01 * 4 * 4 * 2048 * 1024
