"""The largest of many inner products: all of them, and by an inverted file, which looks at a few lists of near rows.

Rows of different lengths get one more coordinate that makes them equally long; normalised, the nearest by cosine are
then those of the largest inner product.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError

AT_ONCE = 1 << 16  # rows that are assigned to centroids together
PER_CENTROID = 64  # rows that centroids are found from


class InvertedFile(NamedTuple):
    """Rows by lists; a list of more than its share stands as several, each with the same centroid."""

    rows: jax.Array  # [C, S, D]: those of a list lie together, 0 behind the last
    centroids: jax.Array  # [C, D + 1]
    lists: jax.Array  # int32 [C, S], -1 behind the last row of a list


def normalised(rows_VD):
    """[V, D] -> unit rows [V, D + 1]: cosines with (q, 0) are in the order of the inner products with q."""
    square = np.sum(np.square(rows_VD, dtype=np.float64), axis=1)
    last = np.sqrt(np.maximum(square.max() - square, 0.0))
    longest = max(float(np.sqrt(square.max())), 1e-30)
    return (np.concatenate([rows_VD, last[:, None]], axis=1) / longest).astype(np.float32)


def _nearest_centroid(unit_VE, centroids_CE):
    parts = range(0, len(unit_VE), AT_ONCE)
    return np.concatenate([np.argmax(unit_VE[i : i + AT_ONCE] @ centroids_CE.T, axis=1) for i in parts])


def inverted_file(rows_VD, lists, seed=0, rounds=8):
    """Sort rows into about `lists` lists by spherical k-means. UserError unless 1 <= lists <= rows."""
    rows_VD = np.asarray(rows_VD, np.float32)
    if not 1 <= lists <= len(rows_VD):
        raise UserError(f"{len(rows_VD)} rows go into 1 to {len(rows_VD)} lists, not {lists}.")
    unit, rng = normalised(rows_VD), np.random.default_rng(seed)
    seen = unit[rng.permutation(len(unit))[: PER_CENTROID * lists]]
    centroids = seen[:lists].copy()
    for _ in range(rounds):
        of = _nearest_centroid(seen, centroids)
        sums = np.zeros_like(centroids)
        np.add.at(sums, of, seen)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.where(norm > 1e-6, sums / np.maximum(norm, 1e-6), centroids)
    of = _nearest_centroid(unit, centroids)
    most = -(-len(unit) // lists)  # of a list: all are padded to the longest
    members = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of, minlength=lists))[:-1])
    parts = [(c, ids[i : i + most]) for c, ids in enumerate(members) for i in range(0, len(ids), most)]
    table = np.full((len(parts), max(len(ids) for _, ids in parts)), -1, np.int32)
    for row, (_, ids) in zip(table, parts, strict=True):
        row[: len(ids)] = ids
    by_list = np.where(table[..., None] >= 0, rows_VD[np.maximum(table, 0)], 0)
    return InvertedFile(jnp.asarray(by_list), jnp.asarray(centroids[[c for c, _ in parts]]), jnp.asarray(table))


@partial(jax.jit, static_argnums=2)
def exact(rows_VD, queries_BD, k):
    """The k rows of the largest inner product with each query: (products [B, k], falling; ids int32 [B, k])."""
    return jax.lax.top_k((queries_BD @ rows_VD.T).astype(jnp.float32), k)


def _near(index, queries_BD, probes):
    near_BC = queries_BD.astype(jnp.float32) @ index.centroids[:, : queries_BD.shape[1]].T
    return jax.lax.top_k(near_BC, min(probes, len(index.lists)))[1]


@partial(jax.jit, static_argnums=2)
def candidates(index, queries_BD, probes):
    """Ids in the `probes` lists whose centroids are nearest to a query, -1 among them: int32 [B, N]."""
    return index.lists[_near(index, queries_BD, probes)].reshape(len(queries_BD), -1)


@partial(jax.jit, static_argnums=(2, 3))
def search(index, queries_BD, k, probes):
    """`exact` among the `candidates`; -1e30 and id -1 where these are fewer than k. Products are those of the rows
    themselves. List by list: to gather all rows first takes many times as long on a CPU."""
    queries_BD = queries_BD.astype(jnp.float32)
    near_BP = _near(index, queries_BD, probes)
    B, P = near_BP.shape

    def look(i, products_NS):
        rows_SD = jax.lax.dynamic_index_in_dim(index.rows, near_BP[i // P, i % P], keepdims=False)
        return products_NS.at[i].set(rows_SD.astype(jnp.float32) @ queries_BD[i // P])

    products_NS = jax.lax.fori_loop(0, B * P, look, jnp.zeros((B * P, index.rows.shape[1])))
    ids_BN = index.lists[near_BP].reshape(B, -1)
    products_BN = jnp.where(ids_BN >= 0, products_NS.reshape(B, -1), -1e30)
    top_BK, at_BK = jax.lax.top_k(products_BN, min(k, products_BN.shape[1]))
    return top_BK, jnp.take_along_axis(ids_BN, at_BK, axis=1)
