"""Static-shape chunking: gather the positions that start a chunk to the front, and spread chunks back.

`slot_BL` maps a position to the chunk that it lies in; `index_BC` maps a chunk to the position that starts it.
The first is non-decreasing along the row and rises by one at every start, so each map's transpose is a gather
along the other. Chunks beyond the capacity are not dropped from the text: their positions join the last chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


LOWEST = -1e30  # finite, so that an empty span stays finite


class Compaction(NamedTuple):
    """Where the chunks of a batch lie, at a static capacity C."""

    index_BC: jax.Array  # int32, position of each chunk's start; any valid position where `valid_BC` is False
    valid_BC: jax.Array  # bool, slot holds a chunk
    slot_BL: jax.Array  # int32, chunk of each position, in [0, C)
    kept_BL: jax.Array  # bool, position starts a chunk that has a slot
    overflow_B: jax.Array  # int32, chunk starts that found no slot


def compact(start_BL, capacity):
    """Stable compaction of the True positions of `start_BL` to `capacity` slots.

    The slot of a position before the first start is 0; models force a start at the first position.
    """
    B, L = start_BL.shape
    rank_BL = jnp.cumsum(start_BL, axis=1, dtype=jnp.int32) - 1
    kept_BL = start_BL & (rank_BL < capacity)
    target_BL = jnp.where(kept_BL, rank_BL, capacity)
    position_BL = jnp.broadcast_to(jnp.arange(L, dtype=jnp.int32), (B, L))
    empty_BC = jnp.zeros((B, capacity), jnp.int32)
    index_BC = empty_BC.at[jnp.arange(B)[:, None], target_BL].set(position_BL, mode="drop")
    count_B = rank_BL[:, -1] + 1
    return Compaction(
        index_BC=index_BC,
        valid_BC=jnp.arange(capacity) < count_B[:, None],
        slot_BL=jnp.clip(rank_BL, 0, capacity - 1),
        kept_BL=kept_BL,
        overflow_B=jnp.maximum(count_B - capacity, 0),
    )


def _rows(x, index):
    """x[b, index[b, i]] for x [B, N, ...], index [B, M]."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)


def _masked(x, mask):
    return jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0)


def gather_reference(x_BLD, c):
    """Rows of `x_BLD` at the chunk starts, zeros in empty slots: [B, C, D]."""
    return _masked(_rows(x_BLD, c.index_BC), c.valid_BC)


@jax.custom_vjp
def gather(x_BLD, c):
    """`gather_reference` whose gradient is a gather too: position t receives its slot's if it started it."""
    return gather_reference(x_BLD, c)


def _gather_fwd(x_BLD, c):
    return gather_reference(x_BLD, c), c


def _gather_bwd(c, g_BCD):
    return _masked(_rows(g_BCD, c.slot_BL), c.kept_BL), None


gather.defvjp(_gather_fwd, _gather_bwd)


def spread_reference(z_BCD, c):
    """Each position's chunk: z[b, slot[b, t]], [B, L, D]."""
    return _rows(z_BCD, c.slot_BL)


@jax.custom_vjp
def spread(z_BCD, c):
    """`spread_reference` whose gradient sums each run of positions by one sorted segment sum."""
    return spread_reference(z_BCD, c)


def _spread_fwd(z_BCD, c):
    return spread_reference(z_BCD, c), c


def _spread_bwd(c, g_BLD):
    def row_sum(g_LD, slot_L):
        return jax.ops.segment_sum(g_LD, slot_L, num_segments=c.index_BC.shape[1], indices_are_sorted=True)

    return jax.vmap(row_sum)(g_BLD, c.slot_BL), None


spread.defvjp(_spread_fwd, _spread_bwd)


def span_sums_reference(x_BLD, c, segment_ids_BL):
    """Sum over each chunk's span: the positions behind the previous chunk's start up to its own, in one document.

    [B, L, D] -> [B, C, D]. The span of a chunk without a slot, and what lies behind the last start, is left out.
    """
    start_BC, before_BC = c.index_BC, jnp.pad(c.index_BC, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    position_L = jnp.arange(x_BLD.shape[1])
    inside_BCL = (position_L > before_BC[..., None]) & (position_L <= start_BC[..., None]) & c.valid_BC[..., None]
    same_BCL = segment_ids_BL[:, None] == jnp.take_along_axis(segment_ids_BL, start_BC, axis=1)[..., None]
    return jnp.einsum("bcl,bld->bcd", (inside_BCL & same_BCL).astype(jnp.float32), x_BLD.astype(jnp.float32))


def spans(c, segment_ids_BL):
    """`c` with `slot_BL` the chunk whose span a position lies in, and whether it lies in one: [B, L] bool. Not so where
    nothing starts any more, and in what is left of a document before the one of the chunk."""
    C = c.index_BC.shape[1]
    kept_BL = c.kept_BL.astype(jnp.int32)
    chunk_BL = jnp.cumsum(kept_BL, axis=1) - kept_BL  # starts before t
    slot_BL = jnp.minimum(chunk_BL, C - 1)
    start_BL = jnp.take_along_axis(c.index_BC, slot_BL, axis=1)
    ended_BL = chunk_BL < jnp.sum(kept_BL, axis=1, keepdims=True)
    same_BL = segment_ids_BL == jnp.take_along_axis(segment_ids_BL, start_BL, axis=1)
    return c._replace(slot_BL=slot_BL), ended_BL & same_BL


def _by_span(reduce, x_BLD, c):
    def row(x_LD, slot_L):
        return reduce(x_LD, slot_L, num_segments=c.index_BC.shape[1], indices_are_sorted=True)

    return jax.vmap(row)(x_BLD, c.slot_BL)


def span_sums(x_BLD, c, segment_ids_BL):
    """`span_sums_reference` as one sorted segment sum; its gradient is a gather."""
    c, inside_BL = spans(c, segment_ids_BL)
    return _by_span(jax.ops.segment_sum, jnp.where(inside_BL[..., None], x_BLD.astype(jnp.float32), 0), c)


def span_max(x_BLD, c, segment_ids_BL):
    """Maximum over each chunk's span by channel, zeros in empty slots: [B, L, D] -> [B, C, D] float32. Of equal maxima
    each gets its part of the gradient."""
    c, inside_BL = spans(c, segment_ids_BL)
    return _masked(_span_max(x_BLD.astype(jnp.float32), c, inside_BL), c.valid_BC)


@jax.custom_vjp
def _span_max(x_BLD, c, inside_BL):
    return _by_span(jax.ops.segment_max, jnp.where(inside_BL[..., None], x_BLD, LOWEST), c)


def _span_max_fwd(x_BLD, c, inside_BL):
    top_BCD = _span_max(x_BLD, c, inside_BL)
    return top_BCD, (x_BLD, top_BCD, c, inside_BL)


def _span_max_bwd(residuals, g_BCD):
    x_BLD, top_BCD, c, inside_BL = residuals
    hit_BLD = (inside_BL[..., None] & (x_BLD == _rows(top_BCD, c.slot_BL))).astype(jnp.float32)
    ties_BCD = jnp.maximum(_by_span(jax.ops.segment_sum, hit_BLD, c), 1)
    return hit_BLD * _rows(g_BCD / ties_BCD, c.slot_BL), None, None


_span_max.defvjp(_span_max_fwd, _span_max_bwd)
