"""Rows that share slots: several rows one behind the other in a long one, and each by itself again where that costs less.

Rows have unequal numbers of chunks. With as many slots in each as the fullest needs, the others' stay empty and are
computed for nothing; rows that are joined need as many as they have chunks on average. What works position by position,
and a recurrence that a new segment resets, takes a joined row as it is. Attention would compare all with all: it takes
the rows apart (`dispatch.by_rows`), at a static number of slots each.

Shapes: B rows, G = B / R joined rows of R rows each, T slots of a joined row, C slots of a row by itself.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmlab.kernels.ssd import runs

UNROLLED = 16  # rows


class Sharing(NamedTuple):
    """Static: how rows share slots."""

    rows: int  # R
    unit: int  # segment ids of a joined row's r-th row are in (r * unit, (r + 1) * unit)
    row_slots: int  # C


def join(x_BL, rows):
    """[B, L, ...] -> [B / rows, rows * L, ...]."""
    return x_BL.reshape(len(x_BL) // rows, rows * x_BL.shape[1], *x_BL.shape[2:])


def joined_ids(segment_ids_BL, rows):
    """Segment ids of joined rows, of which no two share one; 0 stays padding. Their `Sharing.unit` is L + 1."""
    B, L = segment_ids_BL.shape
    ids_BL = runs(segment_ids_BL, (B, L)) + 1 + (jnp.arange(B, dtype=jnp.int32) % rows * (L + 1))[:, None]
    return join(jnp.where(segment_ids_BL > 0, ids_BL, 0), rows)


def _row(ids_GT, sharing):
    return jnp.where(ids_GT > 0, ids_GT // sharing.unit, sharing.rows)


def row_counts(mask_GT, ids_GT, sharing):
    """How many of a mask are in each row: [G, R] int32."""
    own_GRT = _row(ids_GT, sharing)[:, None] == jnp.arange(sharing.rows)[:, None]
    return jnp.sum(own_GRT & mask_GT[:, None], axis=2, dtype=jnp.int32)


def _slices(x_TD, first_R, row_slots):
    """`row_slots` slots of x from each of `first` on: [R, C, ...]. Behind the last slot are zeros."""
    x_TD = jnp.pad(x_TD, ((0, row_slots), *[(0, 0)] * (x_TD.ndim - 1)))
    return jnp.stack([jax.lax.dynamic_slice_in_dim(x_TD, first, row_slots) for first in first_R])


def _overwritten(y_RCD, first_R, slots):
    """The slices one over the other, [T, ...]: of each what the next ones leave, which is the row's own."""
    x_TD = jnp.zeros((slots + y_RCD.shape[1], *y_RCD.shape[2:]), y_RCD.dtype)
    for y_CD, first in zip(y_RCD, first_R, strict=True):
        x_TD = jax.lax.dynamic_update_slice_in_dim(x_TD, y_CD, first, 0)
    return x_TD[:slots]


def _each(function, x, first_GR, n):
    """For every joined row. A few one after the other: mapped over them, XLA's CPU back end would gather slices, and not
    copy them; but of many the program would be long."""
    if first_GR.size > UNROLLED:
        return jax.vmap(lambda row, first_R: function(row, first_R, n))(x, first_GR)
    return jnp.stack([function(row, first_R, n) for row, first_R in zip(x, first_GR, strict=True)])


class Places(NamedTuple):
    """Where rows are in joined ones."""

    first_GR: jax.Array  # int32, the first slot of each row
    count_GR: jax.Array  # int32, its slots


def places(ids_GT, sharing):
    """`Places` of slots with these segment ids: filled ones in front, the rows' in order."""
    count_GR = row_counts(ids_GT > 0, ids_GT, sharing)
    return Places(jnp.cumsum(count_GR, axis=1) - count_GR, count_GR)


def _like(mask, x):
    return mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def apart(x_GT, places, row_slots):
    """Every row by itself, [G, T, ...] -> [G * R, C = row_slots, ...]. Behind a row's own slots stand those of the next:
    who looks within equal segment ids alone computes nothing wrong in the row's own. No gradient comes from behind them."""
    x_GRC = _each(_slices, x_GT, places.first_GR, row_slots)
    return x_GRC.reshape(-1, *x_GRC.shape[2:])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def together(y_NC, places, slots):
    """The inverse, [G * R, C, ...] -> [G, T = slots, ...]; zeros in empty slots. No row has more than C."""
    y_GRC = y_NC.reshape(*places.first_GR.shape, *y_NC.shape[1:])
    x_GT = _each(_overwritten, y_GRC, places.first_GR, slots)
    filled_GT = jnp.arange(slots) < jnp.sum(places.count_GR, axis=1, keepdims=True)
    return jnp.where(_like(filled_GT, x_GT), x_GT, 0)


def _together_bwd(slots, residuals, g_GT):
    places, row_slots = residuals
    g_NC = apart(g_GT, places, row_slots)
    own_NC = jnp.arange(row_slots) < places.count_GR.reshape(-1, 1)
    return jnp.where(_like(own_NC, g_NC), g_NC, 0), None


apart.defvjp(
    lambda x, places, row_slots: (apart(x, places, row_slots), (places, x.shape[1])),
    lambda row_slots, kept, g: (together(g, *kept), None),
)
together.defvjp(lambda y, places, slots: (together(y, places, slots), (places, y.shape[1])), _together_bwd)
