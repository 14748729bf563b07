"""Drawn boundaries are a function of the key and the position: how rows are split over devices changes nothing."""

import os
import subprocess
import sys

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from lmlab.models.boundaries import GumbelBoundaries

h = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 4)), jnp.float32)
tokens, segments = jnp.zeros((8, 16), jnp.int32), jnp.ones((8, 16), jnp.int32)
chunker = GumbelBoundaries(4, 8, prior=0.5)
params = chunker.init(jax.random.key(0), h, tokens, segments)
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
