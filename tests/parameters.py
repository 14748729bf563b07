"""Parameters for tests of what a model computes."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta


def moved(params, by=0.1):
    """Parameters off their special starting points. NumPy draws: a program for each shape would take seconds."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: jnp.asarray(np.asarray(p) + by * rng.standard_normal(p.shape).astype(p.dtype)), meta.unbox(params)
    )
