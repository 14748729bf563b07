import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels import aot, ssd_tpu
from lmlab.kernels.ssd import ssd, ssd_reference
from tests.kernels.test_scan_tpu import STRICT, assert_no_race, block_traffic


def inputs(B, L, H, P, N, dtype=jnp.float32):
    """Arguments of `ssd`, with time steps of 0 in a few places, and an initial state."""
    keys = jax.random.split(jax.random.key(0), 6)
    x_BLHP = jax.random.normal(keys[0], (B, L, H, P), dtype)
    dt_BLH = jax.nn.softplus(jax.random.normal(keys[1], (B, L, H)) - 2).at[:, 9 * L // 10 :].set(0)
    B_BLN, C_BLN = (jax.random.normal(k, (B, L, N), dtype) for k in keys[2:4])
    A_H = -jnp.exp(jax.random.normal(keys[4], (H,)))
    return (x_BLHP, dt_BLH, A_H, B_BLN, C_BLN), jax.random.normal(keys[5], (B, H, P, N))


def segments(B, L):
    """Documents that end inside a chunk, one of length 1, then padding; row 1: other places."""
    t = np.arange(L)
    row0 = np.select([t < L // 3, t < L // 3 + 1, t < L - 3], [1, 2, 3], 0)
    row1 = np.select([t < 5, t < L // 2, t >= L // 2], [1, 0, 2])
    return jnp.asarray(np.stack([row0, row1])[:B], jnp.int32)


def value_and_gradients(f, args, h0, segment_ids):
    """Of a function of y and the last state, with all gradients: {name: array}."""

    def run(args, h0):
        y, h = f(*args, segment_ids, h0)
        return jnp.sum(jnp.sin(y)) + jnp.sum((1 + h0) * h), (y, h)

    (_, (y, h)), (grads, dh0) = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(args, h0)
    return dict(zip(("y", "h", "x", "dt", "A", "B", "C", "h0"), (y, h, *grads, dh0), strict=True))


def assert_equal(args, h0, segment_ids, chunk, mode=True, rtol=1e-4, atol=5e-5):
    fast = functools.partial(ssd_tpu.ssd_tpu, chunk=chunk, interpret=mode)
    fast = value_and_gradients(fast, args, h0, segment_ids)
    assert_no_race(mode)
    slow = value_and_gradients(ssd_reference, args, h0, segment_ids)
    for name, value in fast.items():
        assert jnp.all(jnp.isfinite(value)), name
        np.testing.assert_allclose(value, slow[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    "shape, width, chunk, packed, mode",
    [
        pytest.param((2, 1, 1, 8, 4), 1024, 16, False, True, id="one position"),
        pytest.param((2, 75, 3, 64, 4), 1024, 16, True, True, id="a tile of two heads, one of one"),
        pytest.param((1, 150, 1, 256, 8), 1024, 256, False, True, id="a wide head, a chunk beyond the end"),
        pytest.param((2, 41, 16, 8, 4), 64, 16, True, STRICT, id="two blocks of heads, strict"),
    ],
)
def test_values_and_gradients_equal_the_step_recurrence(shape, width, chunk, packed, mode, monkeypatch):
    monkeypatch.setattr(ssd_tpu, "WIDTH", width)
    args, h0 = inputs(*shape)
    assert_equal(args, h0, segments(*shape[:2]) if packed else None, chunk, mode)


def test_documents_starting_at_chunk_edges():
    args, h0 = inputs(2, 64, 1, 8, 4)
    segment_ids = jnp.repeat(jnp.asarray([[1, 2, 2, 3], [1, 1, 2, 3]], jnp.int32), 16, axis=1)
    assert_equal(args, h0, segment_ids, 16)


def test_strong_decay_is_finite_forwards_and_backwards():
    """-2 per step over a chunk of 128: exp above the diagonal would be e^254."""
    (x, dt, A, b, c), h0 = inputs(1, 160, 1, 8, 4)
    assert_equal((x, jnp.ones_like(dt), jnp.full_like(A, -2.0), b, c), h0, None, 128, rtol=1e-3, atol=2e-4)


def test_documents_do_not_touch_by_gradient():
    args, h0 = inputs(2, 48, 1, 8, 4)
    t = jnp.arange(48)
    segment_ids = jnp.broadcast_to(jnp.where(t < 20, 1, jnp.where(t < 39, 2, 0)), (2, 48))

    def second(x, dt, b, c, h0):
        y, _ = ssd_tpu.ssd_tpu(x, dt, args[2], b, c, segment_ids, h0, chunk=16, interpret=True)
        return jnp.sum(jnp.sin(y[:, 20:39]))

    *grads, dh0 = jax.jit(jax.grad(second, argnums=range(5)))(args[0], args[1], args[3], args[4], h0)
    for g in grads:
        assert not jnp.any(g[:, :20]) and not jnp.any(g[:, 39:]) and jnp.any(g[:, 20:39])
    assert not jnp.any(dh0)


def test_bfloat16_operands_keep_float32_time_steps():
    args, h0 = inputs(2, 100, 2, 32, 8, jnp.bfloat16)
    segment_ids = segments(2, 100)
    fast = functools.partial(ssd_tpu.ssd_tpu, chunk=32, interpret=True)
    fast = value_and_gradients(fast, args, h0, segment_ids)
    slow = value_and_gradients(ssd_reference, tuple(v.astype(jnp.float32) for v in args), h0, segment_ids)
    narrow = {name for name, value in fast.items() if value.dtype == jnp.bfloat16}
    assert narrow == {"x", "B", "C"} and all(fast[name].dtype == jnp.float32 for name in fast.keys() - narrow)
    for name, value in fast.items():
        error = jnp.linalg.norm(value.astype(jnp.float32) - slow[name]) / jnp.linalg.norm(slow[name])
        assert error < (0.03 if name == "A" else 0.01), (name, error)  # A's gradient is a small sum of large terms


def test_each_value_is_read_and_written_once(monkeypatch):
    """Beside the arguments and results only the states between chunks move, in x's dtype."""
    shape = B, L, H, P, N = 2, 1024, 32, 64, 128
    args, h0 = jax.eval_shape(lambda: inputs(*shape, jnp.bfloat16))
    args, h0 = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), (args, h0))

    def run(*args):
        _, pull = jax.vjp(lambda *args: ssd_tpu.ssd_tpu(*args[:5], None, args[5]), *args)
        pull((jnp.zeros((B, L, H, P)), h0))

    moved = block_traffic(monkeypatch, run, *args, h0)
    x, dt, _, b, c = (v.nbytes for v in args)
    y, ids, states = 2 * x, 2 * 4 * B * L, 2 * B * (L // 128) * H * P * N
    forward = x + dt + b + c + ids + y + 2 * h0.nbytes + states
    backward = 2 * x + y + 3 * dt + 2 * (b + c) + ids + 2 * h0.nbytes + states
    assert forward <= moved["ssd"] < 1.01 * forward
    assert backward <= moved["ssd_gradient"] < 1.01 * backward


def folded(kernel, x_BLD, dt_BLH, *rest, **kwargs):
    """x and y as a model holds them, [B, L, H P]."""
    y_BLHP, h_BHPN = kernel(x_BLD.reshape(*dt_BLH.shape, -1), dt_BLH, *rest, **kwargs)
    return y_BLHP.reshape(x_BLD.shape), h_BHPN


folded_tpu, folded_xla = functools.partial(folded, ssd_tpu.ssd_tpu), functools.partial(folded, ssd)


def shapes(B, L, H, P, N, dtype):
    sides = [((B, L, H * P), dtype), ((B, L, H),), ((H,),), ((B, L, N), dtype), ((B, L, N), dtype)]
    sides += [((B, L), jnp.int32), ((B, H, P, N),)]
    return [jax.ShapeDtypeStruct(*s, *(() if len(s) == 2 else (jnp.float32,))) for s in sides]


@pytest.mark.skipif(not aot.available(), reason="needs libtpu: pip install 'lmlab[tpu]'")
def test_it_compiles_for_tpus():
    """In HBM the gradient needs no more than the states between chunks: in bfloat16, half a float32 y."""
    B, L, H, P, N = 2, 8192, 16, 64, 128
    real, odd = shapes(B, L, H, P, N, jnp.bfloat16), shapes(1, 300, 3, 64, 64, jnp.float32)
    programs = [(f"{__name__}:folded_tpu", real, t, g) for t in aot.TOPOLOGIES for g in (False, True)]
    programs += [(f"{__name__}:folded_tpu", odd, "v5p:2x2x1", True)]
    programs += [(f"{__name__}:folded_xla", real, "v5e:2x2", True)]
    *reports, xla = aot.compile_each(programs)
    assert "tpu_custom_call" not in xla.hlo
    states, small = 2 * B * (L // 128) * H * P * N, 4 << 20
    for (_, (x, *_), topology, gradient), report in zip(programs, reports, strict=False):
        assert report.hlo.count('custom_call_target="tpu_custom_call"') == len(report.kernels) == 1 + gradient
        if x.shape[1] == L:
            assert report.temporary_bytes < states * gradient + small < xla.temporary_bytes / 8
            print(topology, gradient, report.temporary_bytes, "of", xla.temporary_bytes)
