"""The kernel benchmark measures what it says: real compactions, finite gradients of every kernel."""

import jax
import numpy as np
import pytest

from lmlab.bench import kernels
from lmlab.kernels.compaction import Compaction


def test_arguments_are_valid():
    for tree, *_ in kernels.shapes(small=True).values():
        arguments = kernels.filled(tree)
        assert jax.tree.map(lambda v: (v.shape, v.dtype), arguments) == jax.tree.map(lambda v: (v.shape, v.dtype), tree)
        for c in (v for v in arguments if isinstance(v, Compaction)):
            assert int(c.overflow_B.sum()) == 0 and int(c.valid_BC.sum()) == c.slot_BL.size // 8


@pytest.mark.parametrize("name", ["SSD", "causal convolution", "its inverse", "attention with biases"])
def test_forms_agree_and_are_finite(name):
    tree, fast, reference = kernels.shapes(small=True)[name]
    arguments = kernels.filled(tree)
    results = [kernels.with_gradient(f, arguments)(*arguments) for f in (fast, reference)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max()), *results)
