"""MANTa's soft segmentation: exact for sharp frontiers, a distribution otherwise, cut off where there is no more room."""

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.models.encoder_decoder import t5
from lmlab.models.gbst import MeanPool, PooledEncoder
from lmlab.models.manta import MANTa, block_assignment, pooled


def test_sharp_frontiers_give_exact_means():
    rng = np.random.default_rng(0)
    p = (rng.random((3, 40)) < 0.3).astype(np.float32)
    p[:, 0] = 0
    x = rng.normal(size=(3, 40, 5)).astype(np.float32)
    valid = np.arange(40) < np.array([[40], [40], [23]])
    p *= valid
    share, there = block_assignment(p, valid, 40)
    number = np.cumsum(p, axis=1).astype(int)
    got = pooled(x, share)
    for row in range(3):
        for block in range(number[row].max() + 1):
            members = (number[row] == block) & valid[row]
            np.testing.assert_allclose(got[row, block], x[row, members].mean(axis=0), atol=1e-5)
            assert there[row, block]
        assert there[row].sum() == number[row].max() + 1


def test_soft_frontiers_give_a_distribution_around_the_expected_block():
    p = np.random.default_rng(0).uniform(0.1, 0.6, (2, 30)).astype(np.float32)
    p[:, 0] = 0
    valid = np.ones((2, 30), bool)
    share, _ = block_assignment(p, valid, 30)
    np.testing.assert_allclose(share.sum(axis=2), 1.0, atol=1e-5)
    expected = (np.asarray(share) * np.arange(30)).sum(axis=2)
    # Of the number of frontiers drawn, whose mean this is up to the cuts at both ends and the normal form.
    assert np.abs(expected[:, 3:20] - np.cumsum(p, axis=1)[:, 3:20]).max() < 0.3


def test_blocks_without_room_are_lost_and_counted():
    front = MANTa(288, 16, d_byte=8, n_heads=2, factor=4)
    tokens = np.random.default_rng(0).integers(97, 123, (2, 32)).astype(np.int32)
    ids = (np.arange(32) < np.array([[32], [20]])).astype(np.int32)
    params, apply = jax.jit(front.init)(jax.random.key(0), None, tokens, ids), jax.jit(front.apply)
    z, block_ids, found = apply(params, None, tokens, ids)
    assert z.shape == (2, 8, 16) and block_ids.shape == (2, 8)
    assert (found.probability_BS[ids == 0] == 0).all() and (found.probability_BS[:, 0] == 0).all()
    few = jax.tree.map(lambda v: v, params)
    many = {"params": few["params"] | {"bias": jax.tree.map(lambda v: v + 20, few["params"]["bias"])}}
    *_, all_frontiers = apply(many, None, tokens, ids)
    np.testing.assert_allclose(all_frontiers.lost, (32 - 8) + (20 - 8), atol=0.1)
    none = {"params": few["params"] | {"bias": jax.tree.map(lambda v: v - 20, few["params"]["bias"])}}
    _, one_block, no_frontiers = apply(none, None, tokens, ids)
    assert float(no_frontiers.lost) < 0.1 and one_block.sum() == 2


def test_gradients_reach_the_frontiers():
    front = MANTa(288, 16, d_byte=8, n_heads=2)
    tokens = np.random.default_rng(0).integers(97, 123, (1, 32)).astype(np.int32)
    ids = np.ones_like(tokens)
    params = jax.jit(front.init)(jax.random.key(0), None, tokens, ids)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(front.apply(p, None, tokens, ids)[0]))))(params)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


def test_only_the_embedding_that_is_read_is_counted():
    """Of the source MANTa's own narrow one; of the target, and of the source before a plain pool, the shared one."""

    def embedding(front):
        return t5(300, (1, 1), 64, 128, 4, 16, encoder=PooledEncoder, front=front).flops(40, 8)["embedding"]

    assert embedding(MANTa(300, 64, d_byte=16)) == 2 * 300 * (16 * 40 + 64 * 8)
    assert embedding(MeanPool(64, 4)) == 2 * 300 * 64 * 48
