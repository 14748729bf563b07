"""The largest inner products: exact, and found by an inverted file."""

import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.kernels.nearest import candidates, exact, inverted_file, normalised, search

RNG = np.random.default_rng(0)
CENTRES = 3 * RNG.standard_normal((40, 16))
ROWS = (CENTRES[RNG.integers(40, size=3000)] + RNG.standard_normal((3000, 16))).astype(np.float32)
ROWS *= RNG.uniform(0.3, 1.5, (3000, 1)).astype(np.float32)
QUERIES = (CENTRES[RNG.integers(40, size=64)] + RNG.standard_normal((64, 16))).astype(np.float32)
INDEX = inverted_file(ROWS, 40)


def test_cosines_of_normalised_rows_are_in_the_order_of_products():
    unit = normalised(ROWS)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    assert (np.argmax(unit[:, :-1] @ QUERIES.T, axis=0) == np.argmax(ROWS @ QUERIES.T, axis=0)).all()


def test_exact_is_a_sort():
    top, ids = exact(ROWS, QUERIES, 5)
    expected = np.sort(QUERIES @ ROWS.T, axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(top, expected, rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(QUERIES @ ROWS.T, np.asarray(ids), 1), expected, rtol=1e-5)


def test_every_row_is_in_one_list():
    assert sorted(np.asarray(INDEX.lists)[np.asarray(INDEX.lists) >= 0].tolist()) == list(range(3000))
    there = np.asarray(INDEX.lists) >= 0
    assert INDEX.lists.shape[1] <= 3000 // 40 and INDEX.rows.shape[:2] == INDEX.lists.shape
    np.testing.assert_array_equal(np.asarray(INDEX.rows)[there], ROWS[np.asarray(INDEX.lists)[there]])


def test_all_lists_are_exact():
    for k in (1, 10):
        top, ids = search(INDEX, QUERIES, k, len(INDEX.lists))
        expected, best = exact(ROWS, QUERIES, k)
        np.testing.assert_allclose(top, expected, rtol=1e-5)
        np.testing.assert_array_equal(ids, best)


def test_few_lists_find_most_of_the_nearest():
    _, best = exact(ROWS, QUERIES, 10)
    recall, share = [], []
    for probes in (1, 4, 12):
        _, ids = search(INDEX, QUERIES, 10, probes)
        recall.append(np.mean([np.isin(b, a).mean() for a, b in zip(np.asarray(ids), np.asarray(best), strict=True)]))
        looked_at = jnp.sum(candidates(INDEX, QUERIES, probes) >= 0, axis=1)
        share.append(float(jnp.mean(looked_at)) / len(ROWS))
    assert recall == sorted(recall) and recall[1] > 0.8 and share[1] < 0.2


def test_fewer_candidates_than_asked_for_are_told():
    top, ids = search(inverted_file(ROWS[:6], 3), QUERIES, 6, 1)
    assert ((np.asarray(ids) < 0) == (np.asarray(top) == -1e30)).all()
    assert (np.asarray(ids) >= 0).any(axis=1).all()
    with pytest.raises(UserError, match="6 rows go into"):
        inverted_file(ROWS[:6], 7)
