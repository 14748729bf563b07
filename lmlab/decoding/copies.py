"""Branches as copies: a pool of cache rows, each of which is copied where another branches off it.

Works for every model with `prefill` and `step`: which axis of each array of a cache counts its rows is found by asking
for caches of one row and of two.
"""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.decoding import padding
from lmlab.kernels.dispatch import compiled_for, mesh_of


@lru_cache(maxsize=16)
def _row_axes(model, length):
    """Per array of the cache: (axis of its rows, how many entries of it are one row)."""
    one, two = (jax.tree.leaves(jax.eval_shape(lambda n=n: model.init_cache(n, length))) for n in (1, 2))
    axes = [next(i for i, (a, b) in enumerate(zip(x.shape, y.shape)) if a != b) for x, y in zip(one, two)]
    return tuple((axis, x.shape[axis]) for axis, x in zip(axes, one, strict=True))


def _copied(axes, source, source_N, target, target_N, count):
    """`target` with the first `count` of the rows `source_N` of `source` in its rows `target_N`, none of which is copied
    from. Row by row, as a CPU's scatter goes entry by entry."""
    leaves, tree = jax.tree.flatten(target)
    new = []
    for i, ((axis, unit), leaf) in enumerate(zip(axes, leaves, strict=True)):
        other = None if source is target else jax.tree.leaves(source)[i]

        def copy(n, leaf, axis=axis, unit=unit, other=other):
            row = jax.lax.dynamic_slice_in_dim(leaf if other is None else other, source_N[n] * unit, unit, axis)
            return jax.lax.dynamic_update_slice_in_dim(leaf, row, target_N[n] * unit, axis)

        new.append(jax.lax.fori_loop(0, count, copy, leaf))
    return tree.unflatten(new)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def _begin(model, mesh, length, params, pool, tokens_BL, count_B):
    valid_BL = jnp.arange(tokens_BL.shape[1]) < count_B[:, None]
    with compiled_for(mesh, whole_rows=True):
        cache = model.init_cache(len(tokens_BL), length)
        logits_BLV, cache = model.apply(params, tokens_BL, valid_BL, cache, method="prefill")
    rows_B = jnp.arange(len(tokens_BL))
    return jax.nn.log_softmax(logits_BLV), _copied(_row_axes(model, length), cache, rows_B, pool, rows_B, len(rows_B))


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def _extend(model, mesh, length, in_place, params, pool, parent_N, row_N, token_N, active_N):
    if not in_place:
        pool = _copied(_row_axes(model, length), pool, parent_N, pool, row_N, jnp.sum(active_N))
    with compiled_for(mesh, whole_rows=True):
        logits_NV, pool = model.apply(params, token_N, pool, active_N, row_N, method="step")
    return jax.nn.log_softmax(logits_NV), pool


class Copies:
    """See `lmlab.decoding.branches`: here a branch is a row of the pool."""

    def __init__(self, model, params, prompts, room):
        self._model, self._params, self._mesh = model, params, mesh_of(params)
        tokens, counts = padding.prompts(prompts)
        self._length = padding.slots(tokens.shape[1] + room)
        self._rows, self.roots = 8 * len(prompts), range(len(prompts))
        self._free = list(range(self._rows - 1, len(prompts) - 1, -1))
        pool = model.init_cache(self._rows, self._length)
        log_probs, self._pool = _begin(model, self._mesh, self._length, params, pool, tokens, counts)
        self.log_probs = [row[:count] for row, count in zip(np.asarray(log_probs), counts, strict=True)]

    def extend(self, parents, tokens, in_place=False):
        """(branches, log-probabilities [N, V]) behind one more token each."""
        if not in_place and len(self._free) < len(parents):
            self._grow(max(len(parents), self._rows))
        rows = list(parents) if in_place else [self._free.pop() for _ in parents]
        count = len(parents)
        entries = padding.entries(count)
        arrays = np.zeros((3, entries), np.int32)
        arrays[:, :count] = parents, rows, tokens
        log_probs, self._pool = _extend(
            self._model, self._mesh, self._length, in_place, self._params, self._pool, *arrays, np.arange(entries) < count
        )
        return rows, np.asarray(log_probs)[:count]

    def release(self, row):
        """Nothing branches off this one any more."""
        self._free.append(row)

    def _grow(self, more):
        leaves, tree = jax.tree.flatten(self._pool)
        new = jax.tree.leaves(self._model.init_cache(more, self._length))
        axes = _row_axes(self._model, self._length)
        joined = [jnp.concatenate([a, b], axis) for (axis, _), a, b in zip(axes, leaves, new, strict=True)]
        self._pool = tree.unflatten(joined)
        self._free += range(self._rows, self._rows + more)
        self._rows += more
