"""Joined rows: each by itself gives what it gave before, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels import attention, compaction, dispatch, shared_rows
from lmlab.kernels.shared_rows import Sharing

B, L, D = 4, 12, 6
STARTS = np.random.default_rng(0).random((B, L)) < 0.5
SEGMENTS = np.array([[1] * 12, [3] * 5 + [7] * 7, [2] * 9 + [0] * 3, [0] * 12], np.int32)


def test_ids_of_joined_rows_keep_documents_and_rows_apart():
    ids = np.asarray(shared_rows.joined_ids(jnp.asarray(SEGMENTS), 2)).reshape(B, L)
    assert ((ids == 0) == (SEGMENTS == 0)).all()
    same = SEGMENTS[..., None] == SEGMENTS[:, None]
    np.testing.assert_array_equal((ids[..., None] == ids[:, None]), same)
    assert set(ids[0]) & set(ids[1]) <= {0} and set(ids[2]) & set(ids[3]) <= {0}
    np.testing.assert_array_equal(np.where(ids > 0, ids // (L + 1), -1)[1], [1] * 12)


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize("longest", [9, 12])
def test_attention_by_rows_equals_attention_over_joined_rows_and_over_rows_as_they_are(rows, longest):
    start = STARTS & (SEGMENTS > 0)
    start[:, 0] |= SEGMENTS[:, 0] > 0
    assert start.sum(1).max() <= longest
    q, k, v = jax.random.normal(jax.random.key(0), (3, B, L, 2, D))
    ids = shared_rows.joined_ids(jnp.asarray(SEGMENTS), rows)
    sharing = Sharing(rows, L + 1, longest)
    c = compaction.compact(shared_rows.join(jnp.asarray(start), rows), int(start.reshape(B // rows, -1).sum(1).max()) + 2)
    alone = compaction.compact(jnp.asarray(start), L)

    def joined(q, k, v, by_rows):
        arrays = [compaction.gather(shared_rows.join(x, rows).reshape(B // rows, rows * L, -1), c) for x in (q, k, v)]
        arrays = [x.reshape(*x.shape[:2], 2, D) for x in arrays]
        slot_ids = compaction.gather(ids, c)
        if by_rows:
            with dispatch.rows_share(sharing):
                o = dispatch.by_rows(attention.attention_reference, arrays, slot_ids)
        else:
            o = attention.attention_reference(*arrays, slot_ids)
        o = jnp.where(c.kept_BL[..., None], compaction.spread(o.reshape(*o.shape[:2], -1), c), 0)
        return o.reshape(B, L, 2, D)

    def separate(q, k, v):
        arrays = [compaction.gather(x.reshape(B, L, -1), alone).reshape(B, L, 2, D) for x in (q, k, v)]
        o = attention.attention_reference(*arrays, compaction.gather(jnp.asarray(SEGMENTS), alone))
        o = jnp.where(alone.kept_BL[..., None], compaction.spread(o.reshape(B, L, -1), alone), 0)
        return o.reshape(B, L, 2, D)

    def values_and_gradients(f):
        return f(q, k, v), jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2))(q, k, v)

    expected = values_and_gradients(separate)
    for by_rows in (True, False):
        got = values_and_gradients(lambda *a, by_rows=by_rows: joined(*a, by_rows))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got, expected)


def test_chunks_are_counted_by_row():
    ids = shared_rows.joined_ids(jnp.asarray(SEGMENTS), 4)
    mask = jnp.asarray(STARTS & (SEGMENTS > 0))
    counts = shared_rows.row_counts(shared_rows.join(mask, 4), ids, Sharing(4, L + 1, L))
    np.testing.assert_array_equal(counts[0], np.asarray(mask).sum(1))


def test_many_rows_are_taken_apart_and_joined_as_few_are(monkeypatch):
    """In values and gradients, mapped over rows as one after the other."""
    ids = shared_rows.joined_ids(jnp.asarray(SEGMENTS), 2)
    c = compaction.compact(shared_rows.join(jnp.asarray(STARTS & (SEGMENTS > 0)), 2), 2 * L)
    places = shared_rows.places(compaction.gather(ids, c), Sharing(2, L + 1, 9))
    x = jax.random.normal(jax.random.key(0), (B // 2, 2 * L, D))

    def both(x):
        rows = shared_rows.apart(x, places, 9)
        return rows, shared_rows.together(jnp.sin(rows), places, 2 * L)

    def values_and_gradient():
        weights = jax.random.normal(jax.random.key(1), (B // 2, 2 * L, D))
        return both(x), jax.grad(lambda x: jnp.sum(both(x)[1] * weights))(x)

    few = values_and_gradient()
    assert np.abs(few[1]).max() > 0.1
    monkeypatch.setattr(shared_rows, "UNROLLED", 0)
    jax.tree.map(np.testing.assert_array_equal, values_and_gradient(), few)
