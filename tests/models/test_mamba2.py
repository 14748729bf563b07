import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.models.mamba2 import Mamba2
from tests.paths import fixture

NAMES = {
    "in_proj": "in_proj.weight",
    "conv_kernel": "conv1d.weight",
    "conv_bias": "conv1d.bias",
    "dt_bias": "dt_bias",
    "A_log": "A_log",
    "D": "D",
    "norm": "norm.weight",
    "out_proj": "out_proj.weight",
}


def from_torch(arrays, prefix):
    """Torch stores matrices (out, in) and depthwise kernels (C, 1, K)."""
    params = {name: arrays[prefix + key] for name, key in NAMES.items()}
    params["conv_kernel"] = params["conv_kernel"][:, 0]
    return {"params": {k: jnp.asarray(v.T if v.ndim == 2 else v) for k, v in params.items()}}


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def apply(mixer, *args, method=None):
    return mixer.apply(*args, method=method)


@pytest.fixture(scope="module")
def original():
    arrays = fixture("hnet_mamba2.npz")
    return arrays, Mamba2(64), from_torch(arrays, "w/")


@pytest.fixture(scope="module")
def small():
    mixer = Mamba2(16, d_state=8, head_dim=8, chunk=16)
    x = jax.random.normal(jax.random.key(1), (2, 40, 16))
    return mixer, nn.meta.unbox(jax.jit(mixer.init)(jax.random.key(0), x, None)), x


def test_original_values_and_gradients(original):
    arrays, mixer, params = original
    ones = jnp.ones(arrays["u"].shape[:2], jnp.int32)
    y, pull = jax.vjp(lambda p, u: apply(mixer, p, u, ones), params, jnp.asarray(arrays["u"]))
    np.testing.assert_allclose(y, arrays["y"], atol=5e-6)
    grads, grad_u = pull(jnp.asarray(arrays["loss_weight"]))
    np.testing.assert_allclose(grad_u, arrays["grad_u"], rtol=1e-3, atol=1e-5)
    expected = from_torch(arrays, "g/")
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-5), grads, expected)


def test_original_packed(original):
    arrays, mixer, params = original
    y = apply(mixer, params, arrays["u"][:1], jnp.asarray(arrays["seq_idx"]) + 1)
    np.testing.assert_allclose(y, arrays["y_seq_idx"], atol=5e-6)


def test_original_prefill_and_steps(original):
    arrays, mixer, params = original
    valid = jnp.arange(33)[None] < 20
    y, cache = apply(mixer, params, arrays["u"][:1], valid, mixer.init_cache(1, 33), method="prefill")
    np.testing.assert_allclose(y[:, :20], arrays["y"][:1, :20], atol=5e-6)
    np.testing.assert_allclose(jnp.swapaxes(cache["conv"], 1, 2), arrays["conv_state_after20"], atol=5e-6)
    np.testing.assert_allclose(cache["ssm"], arrays["ssm_state_after20"], atol=5e-6)
    for t in range(20, 33):
        y, cache = apply(mixer, params, arrays["u"][:1, t], cache, jnp.ones(1, bool), method="step")
        np.testing.assert_allclose(y[0], arrays["step_y_20_33"][0, t - 20], atol=5e-6)


def test_padded_prefill_equals_unpadded(small):
    mixer, params, x = small
    lengths = [7, 40]
    valid = jnp.arange(40) < jnp.asarray(lengths)[:, None]
    garbage = jnp.where(valid[..., None], x, 1e3)
    y, cache = apply(mixer, params, garbage, valid, mixer.init_cache(2, 40), method="prefill")
    for row, n in enumerate(lengths):
        alone = x[row : row + 1, :n]
        full = jnp.ones((1, n), bool)
        y_n, cache_n = apply(mixer, params, alone, full, mixer.init_cache(1, n), method="prefill")
        np.testing.assert_allclose(y[row, :n], y_n[0], atol=1e-6)
        jax.tree.map(lambda a, b, r=row: np.testing.assert_allclose(a[r], b[0], atol=1e-6), cache, cache_n)


def test_prefill_in_two_parts_and_steps_equal_the_forward_pass(small):
    mixer, params, x = small
    y = apply(mixer, params, x, jnp.ones((2, 40), jnp.int32))
    cache = mixer.init_cache(2, 40)
    for part in (slice(0, 9), slice(9, 30)):
        valid = jnp.ones(x[:, part].shape[:2], bool)
        y_part, cache = apply(mixer, params, x[:, part], valid, cache, method="prefill")
        np.testing.assert_allclose(y_part, y[:, part], atol=1e-6)
    for t in range(30, 40):
        y_t, cache = apply(mixer, params, x[:, t], cache, jnp.ones(2, bool), method="step")
        np.testing.assert_allclose(y_t, y[:, t], atol=1e-6)


def test_inactive_rows_keep_their_cache(small):
    mixer, params, x = small
    cache = jax.tree.map(jnp.ones_like, mixer.init_cache(2, 40))
    _, new = apply(mixer, params, x[:, 0], cache, jnp.asarray([True, False]), method="step")
    for k in cache:
        np.testing.assert_array_equal(new[k][1], cache[k][1])
        assert jnp.any(new[k][0] != cache[k][0])


def test_causal_and_documents_apart_by_gradient(small):
    mixer, params, x = small
    ids = jnp.broadcast_to(jnp.where(jnp.arange(40) < 13, 1, jnp.where(jnp.arange(40) < 35, 2, 0)), (2, 40))
    grad = jax.jit(jax.grad(lambda x, t: jnp.sum(apply(mixer, params, x, ids)[:, t] ** 2)))
    for t, start in ((5, 0), (20, 13), (34, 13)):
        g = grad(x, t)
        assert jnp.any(g[:, start : t + 1]) and not jnp.any(g[:, :start]) and not jnp.any(g[:, t + 1 :])


def test_initial_values_and_axes():
    mixer = Mamba2(256, head_dim=4, out_std=0.005)
    boxed = jax.jit(mixer.init)(jax.random.key(0), jnp.zeros((1, 4, 256)), None)
    p = nn.meta.unbox(boxed)["params"]
    assert set(p) == set(NAMES)
    np.testing.assert_allclose(jnp.std(p["in_proj"]), 0.02, rtol=0.02)
    np.testing.assert_allclose(jnp.std(p["out_proj"]), 0.005, rtol=0.02)
    for name in ("conv_kernel", "conv_bias"):
        assert 0.45 < jnp.max(jnp.abs(p[name])) <= 0.5
    assert jnp.all((p["A_log"] >= 0) & (p["A_log"] <= jnp.log(16.0))) and jnp.std(jnp.exp(p["A_log"])) > 3
    log_dt = jnp.log(jax.nn.softplus(p["dt_bias"]))
    assert jnp.all((log_dt >= jnp.log(0.99e-3)) & (log_dt <= jnp.log(0.101)))
    np.testing.assert_allclose(jnp.mean(log_dt), jnp.log(0.01), atol=0.4)  # log-uniform: centred on 0.01
    spec = nn.get_partition_spec(boxed)["params"]
    assert spec["in_proj"] == jax.sharding.PartitionSpec("embed", "inner")
    assert spec["out_proj"] == jax.sharding.PartitionSpec("inner", "embed")


def test_compute_follows_the_weights_dtype(small):
    mixer, params, x = small
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    y = apply(mixer, low, x, None)
    assert y.dtype == jnp.bfloat16
    expected = apply(mixer, params, x, None)
    assert jnp.linalg.norm(y - expected) < 0.05 * jnp.linalg.norm(expected)


def test_a_width_that_no_whole_number_of_heads_fills_is_one_sentence():
    with pytest.raises(UserError, match="inner width 96 .of width 48. is no multiple of its heads' 64"):
        Mamba2(48).init(jax.random.key(0), jnp.zeros((1, 8, 48)), jnp.ones((1, 8), jnp.int32))
