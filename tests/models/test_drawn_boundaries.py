"""Drawn boundaries are a function of the key and the position: how rows are split over devices changes nothing."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.models.boundaries import GumbelBoundaries

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from lmlab.models.boundaries import GumbelBoundaries

h = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 4)), jnp.float32)
tokens, segments = jnp.zeros((8, 16), jnp.int32), jnp.ones((8, 16), jnp.int32)
chunker = GumbelBoundaries(4, 8, prior=0.5)
params = jax.jit(chunker.init)(jax.random.key(0), h, tokens, segments)
draw = jax.jit(lambda h, t, s: chunker.apply(params, h, t, s, rngs={"noise": jax.random.key(1)}).start_BL)
rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
one = np.asarray(draw(h, tokens, segments))
split = draw(*jax.device_put((h, tokens, segments), rows))
assert len(split.sharding.device_set) == 4 and 20 < one.sum() < 110
np.testing.assert_array_equal(np.asarray(split), one)
assert (one[:, 1:] != one[:1, 1:]).any()
"""


def test_four_devices_draw_as_one():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SCRIPT], env=env, check=True, timeout=300)


def test_without_a_key_boundaries_come_at_the_predicted_rate_and_are_always_the_same():
    rng = np.random.default_rng(0)
    h, tokens = jnp.zeros((64, 256, 4)), jnp.asarray(rng.integers(0, 256, (64, 256)), jnp.int32)
    segments = jnp.ones((64, 256), jnp.int32)
    for prior in (0.05, 0.2, 0.5):
        chunker = GumbelBoundaries(4, 8, prior=prior)
        params = jax.jit(chunker.init)(jax.random.key(0), h, tokens, segments)
        start = np.asarray(jax.jit(chunker.apply)(params, h, tokens, segments).start_BL)
        assert abs(start[:, 1:].mean() - prior) < 0.01  # of 16,320; a standard deviation is at most 0.004
        np.testing.assert_array_equal(start, np.asarray(jax.jit(chunker.apply)(params, h, tokens, segments).start_BL))
        # What is drawn at a place says nothing of the next, nor of the same place in another row.
        both = (start[:, 1:-1] & start[:, 2:]).mean(), (start[:-1, 1:] & start[1:, 1:]).mean()
        assert all(abs(share - prior**2) < 0.012 for share in both)


def test_offsets_count_from_the_start_of_each_document():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 64)), jnp.int32)
    tokens, segments = jnp.tile(tokens, (1, 2)), jnp.repeat(jnp.array([[1, 2]], jnp.int32), 64, axis=1)
    chunker, h = GumbelBoundaries(4, 8, prior=0.5), jnp.zeros((1, 128, 4))
    params = jax.jit(chunker.init)(jax.random.key(0), h, tokens, segments)
    first, second = np.split(np.asarray(jax.jit(chunker.apply)(params, h, tokens, segments).start_BL)[0], 2)
    np.testing.assert_array_equal(first, second)
