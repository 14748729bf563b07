"""Kernels over rows whose positions are split over the devices of a mesh axis: what each device does with its part.

Every function runs under `shard_map` and sees one device's positions, in order along the axis. A recurrence is
summarised as (decay, state) of each part; log2 rounds of `ppermute` give every device the state that enters its own,
and the kernel runs once, from there. Windows of positions come from the devices before. Only full attention gathers
along the axis at full length, keys and values; compaction gathers and scatters no more than the compacted array.
Gradients are JAX's: each collective here is linear, and what it saves is of the size of what it sends.
"""

import jax
import jax.numpy as jnp

from lmlab.kernels import compaction
from lmlab.kernels.convolution import causal_conv_silu as _conv_silu
from lmlab.kernels.ssd import _dot, runs

SEQUENCE = "sequence"


def _from_before(x, hops=1):
    """`x` of the device `hops` before this one; zeros where there is none."""
    size = jax.lax.axis_size(SEQUENCE)
    return jax.lax.ppermute(x, SEQUENCE, [(i, i + hops) for i in range(size - hops)])


def _is_first():
    return jax.lax.axis_index(SEQUENCE) == 0


def earlier(x_BL, count):
    """The `count` positions before this device's own, [B, count, ...]; zeros before the row's start. One hop for every
    whole part, and what comes from further away is handed on."""
    parts, missing = [], count
    part = x_BL
    while missing > 0:
        part = _from_before(part[:, -min(missing, part.shape[1]) :])
        parts.insert(0, part)
        missing -= part.shape[1]
    return jnp.concatenate(parts, axis=1) if parts else x_BL[:, :0]


def shift_right(x_BL, fill):
    """x_{t-1} along axis 1, `fill` at the row's start."""
    before = jnp.where(_is_first(), jnp.asarray(fill, x_BL.dtype), earlier(x_BL, 1))
    return jnp.concatenate([before, x_BL[:, :-1]], axis=1)


def _continues(segment_ids_BL):
    """[B] bool: this part begins in the document that the part before it ends in; so does a row's first part."""
    if segment_ids_BL is None:
        return True
    return (earlier(segment_ids_BL, 1)[:, 0] == segment_ids_BL[:, 0]) | _is_first()


def entering(decay, state, initial=None):
    """The state that enters each device's part, s_{i-1} of s_i = decay_i s_{i-1} + state_i; `initial` enters the first.

    `state` has trailing dimensions beside those of `decay`.
    """

    def times(decay, state):
        return decay.reshape(*decay.shape, *[1] * (state.ndim - decay.ndim)) * state

    if initial is not None:
        state = state + jnp.where(_is_first(), times(decay, initial), 0)
    decay, state = _from_before(decay), _from_before(state)
    hops = 1
    while hops < jax.lax.axis_size(SEQUENCE) - 1:
        state = state + times(decay, _from_before(state, hops))
        decay = decay * _from_before(decay, hops)
        hops *= 2
    return state if initial is None else jnp.where(_is_first(), initial, state)


def linear_scan(kernel, a_BL, b_BLD, h0_BD=None):
    """`lmlab.kernels.scan.linear_scan` by `kernel` on each part."""
    a_BL, b_BLD = a_BL.astype(jnp.float32), b_BLD.astype(jnp.float32)
    next_BL = jnp.pad(a_BL[:, 1:], ((0, 0), (0, 1)), constant_values=1)
    left_BL = jax.lax.cumprod(next_BL, axis=1, reverse=True)  # of b_t, at the part's end
    state_BD = jnp.einsum("bl,bld->bd", left_BL, b_BLD, precision="highest")
    return kernel(a_BL, b_BLD, entering(a_BL[:, 0] * left_BL[:, 0], state_BD, h0_BD))


def ssd(kernel, x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, segment_ids_BL=None, h0_BHPN=None):
    """`lmlab.kernels.ssd.ssd` by `kernel` on each part; the state is that behind this device's part."""
    run_BL = runs(segment_ids_BL, x_BLHP.shape[:2])
    continues_B = _continues(segment_ids_BL)
    a_BLH = dt_BLH.astype(jnp.float32) * A_H.astype(jnp.float32)
    # Added up from the end: what is left of a position near it must not be a difference of long sums.
    behind_BLH = jax.lax.cumsum(a_BLH, axis=1, reverse=True) - a_BLH
    last_BL = run_BL == run_BL[:, -1:]
    left_BLH = jnp.exp(jnp.where(last_BL[..., None], behind_BLH, -jnp.inf)) * dt_BLH
    u_BLHP = (left_BLH[..., None] * x_BLHP).astype(x_BLHP.dtype)
    state_BHPN = _dot("blhp,bln->bhpn", u_BLHP, B_BLN.astype(x_BLHP.dtype))
    whole_B = (run_BL[:, -1] == 0) & continues_B
    decay_BH = jnp.exp(jnp.where(whole_B[:, None], jnp.sum(a_BLH, axis=1), -jnp.inf))
    h_BHPN = entering(decay_BH, state_BHPN, h0_BHPN)
    h_BHPN = jnp.where(jnp.reshape(continues_B, (-1, 1, 1, 1)), h_BHPN, 0)
    return kernel(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, segment_ids_BL, h_BHPN)


def causal_conv_silu(kernel, x_BLC, w_KC, bias_C, segment_ids_BL=None):
    """`lmlab.kernels.convolution.causal_conv_silu` by `kernel`, and once more for the positions that the part before
    reaches into."""
    past = w_KC.shape[0] - 1
    first = min(past, x_BLC.shape[1])

    def with_past(v):
        return jnp.concatenate([earlier(v, past), v[:, :first]], axis=1)

    ids_BK = None if segment_ids_BL is None else with_past(segment_ids_BL)
    edge_BKC = _conv_silu(with_past(x_BLC), w_KC, bias_C, ids_BK)[:, past:]
    return kernel(x_BLC, w_KC, bias_C, segment_ids_BL).at[:, :first].set(edge_BKC)


def _all_before(x_BL):
    """All positions of the row but this device's own, those behind it first and then those before it; and how many of
    these are behind."""
    size, index = jax.lax.axis_size(SEQUENCE), jax.lax.axis_index(SEQUENCE)
    parts = jnp.roll(jax.lax.all_gather(x_BL, SEQUENCE), -(index + 1), axis=0)[:-1]
    parts = jnp.moveaxis(parts, 0, 1)
    return parts.reshape(len(x_BL), -1, *x_BL.shape[2:]), (size - 1 - index) * x_BL.shape[1]


def attention(kernel, q_BLHK, k_BLHK, v_BLHK, segment_ids_BL=None, window=None):
    """`lmlab.kernels.attention.attention_reference` of this part's queries: `kernel(q, k, v, ids)` of the last queries
    of more keys. A window takes what it reaches from the parts before; without one all keys and values are gathered."""
    B, part = q_BLHK.shape[:2]
    others = part * (jax.lax.axis_size(SEQUENCE) - 1)
    ids_BL = jnp.zeros((B, part), jnp.int32) if segment_ids_BL is None else segment_ids_BL
    kv_BL2HK = jnp.stack([k_BLHK, v_BLHK], axis=2)
    if window is not None and window - 1 < others:
        kv_BM2HK = earlier(kv_BL2HK, window - 1)
        ids_BM = earlier(ids_BL + 1, window - 1) - 1  # -1: no document's
    else:
        kv_BM2HK, behind = _all_before(kv_BL2HK)
        ids_BM = jnp.where(jnp.arange(others) < behind, -1, _all_before(ids_BL)[0])
    kv_BM2HK = jnp.concatenate([kv_BM2HK, kv_BL2HK], axis=1)
    ids_BM = jnp.concatenate([ids_BM, ids_BL], axis=1)
    return kernel(q_BLHK, kv_BM2HK[:, :, 0], kv_BM2HK[:, :, 1], ids_BM)


def _scatter_slots(z_BKD, first_B, slots):
    """This device's chunks, which go to the slots from `first` on, to the devices that hold those slots."""
    empty_BCD = jnp.zeros((len(z_BKD), slots + z_BKD.shape[1], *z_BKD.shape[2:]), z_BKD.dtype)
    put = jax.vmap(lambda row, z, first: jax.lax.dynamic_update_slice_in_dim(row, z, first, axis=0))
    all_BCD = put(empty_BCD, z_BKD, first_B)[:, :slots]
    return jax.lax.psum_scatter(all_BCD, SEQUENCE, scatter_dimension=1, tiled=True)  # one device's value and zeros


def _own(c, slots):
    """The chunks that start in this part: their `Compaction` to the front, and the slot of the first."""
    own = compaction.compact(c.kept_BL, min(slots, c.kept_BL.shape[1]))
    return own, c.slot_BL[:, -1] + 1 - jnp.sum(c.kept_BL, axis=1, dtype=jnp.int32)


def compact(start_BL, capacity):
    """`lmlab.kernels.compaction.compact`: numbers of slots and positions are the whole row's, and every device holds
    its share of both."""
    size, index = jax.lax.axis_size(SEQUENCE), jax.lax.axis_index(SEQUENCE)
    count_SB = jax.lax.all_gather(jnp.sum(start_BL, axis=1, dtype=jnp.int32), SEQUENCE)
    before_B = jnp.sum(jnp.where(jnp.arange(size)[:, None] < index, count_SB, 0), axis=0)
    count_B = jnp.sum(count_SB, axis=0)
    rank_BL = before_B[:, None] + jnp.cumsum(start_BL, axis=1, dtype=jnp.int32) - 1
    c = compaction.Compaction(
        index_BC=None,
        valid_BC=index * (capacity // size) + jnp.arange(capacity // size) < count_B[:, None],
        slot_BL=jnp.clip(rank_BL, 0, capacity - 1),
        kept_BL=start_BL & (rank_BL < capacity),
        overflow_B=jnp.maximum(count_B - capacity, 0),
    )
    own, first_B = _own(c, capacity)
    position_BK = jnp.where(own.valid_BC, own.index_BC + index * start_BL.shape[1], 0)
    return c._replace(index_BC=_scatter_slots(position_BK, first_B, capacity))


def gather(kernel, x_BLD, c):
    """`lmlab.kernels.compaction.gather`: `kernel` gathers what starts here, and a reduce-scatter of all slots hands
    every device its own."""
    slots = c.index_BC.shape[1] * jax.lax.axis_size(SEQUENCE)
    own, first_B = _own(c, slots)
    return _scatter_slots(kernel(x_BLD, own), first_B, slots)


def spread(kernel, z_BCD, c, block=None):
    """`lmlab.kernels.compaction.spread` by `kernel`, of all slots gathered. `block`: the kernel's gradient leaves
    blocks of so many slots unwritten that lie before the first that it reads."""
    z_BCD = jax.lax.all_gather(z_BCD, SEQUENCE, axis=1, tiled=True)
    if block is not None:
        written_BC = jnp.arange(z_BCD.shape[1]) >= c.slot_BL[:, :1] // block * block
        z_BCD = jnp.where(written_BC[..., None], z_BCD, 0)
    return kernel(z_BCD, c._replace(index_BC=jnp.zeros(z_BCD.shape[:2], jnp.int32)))
