"""Rows of caches: a step may advance only some rows of a batch, named by `row_B`, and of those only the active. Or several
continuations of a row stand in it side by side, as a tree (`Leaves`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def take(cache, row_B):
    """The rows `row_B` of every array in `cache`; None: all, in order."""
    return cache if row_B is None else jax.tree.map(lambda c: c[row_B], cache)


def put(cache, new, active_B, row_B):
    """`cache` with the active rows of `new` written to the rows that `take` took them from."""

    def write(old, new):
        new = new.astype(old.dtype)
        if row_B is None:
            return jnp.where(active_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        return old.at[jnp.where(active_B, row_B, len(old))].set(new, mode="drop")

    return jax.tree.map(write, cache, new)


class Leaves(NamedTuple):
    """N new tokens of the trees in a cache's B rows of S slots, at most R of a row. Idle entries have slot -1 and rank R."""

    row_N: jax.Array  # int32
    rank_N: jax.Array  # int32, which of its row's it is
    slot_N: jax.Array  # int32, where it is written
    position_N: jax.Array  # int32, how many tokens it stands behind
    seen_BRS: jax.Array  # bool, the slots of these and its own
