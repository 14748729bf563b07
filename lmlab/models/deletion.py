"""Encoders that delete positions on their way: MrT5's learned gate (arXiv 2410.20771), and gates by chance and by rule.

A gate gives every position a number G from k (deleted) to 0 (kept). Soft deletion adds G to the scores of whoever
attends to the position in later layers. Hard deletion takes out positions with G < k / 2 and closes up the rest, which
keep their G: so it is soft deletion but for what still leaks through. The released code drops it. Trained to the end
the kept have a G of next to 0, but after some hundred steps they have anything from 0 to k / 2, and softmax_1 weighs all of
it against nothing: a model that was trained under it is lost without.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.compaction import compact
from lmlab.kernels.dispatch import gather
from lmlab.models.chunkers import spacelike
from lmlab.models.encoder_decoder import Encoded, Encoder
from lmlab.models.layers import RMSNorm, normal, parameter
from lmlab.models.t5 import EPS, same_segment

DELETED = -30.0  # k: scores of deleted positions are lower by this


class Deletion(NamedTuple):
    """What a gate decided about a batch."""

    gate_BS: jax.Array  # float32, G; k in padding
    deleted_BS: jax.Array  # bool, G < k / 2, never in padding
    positions_BS: jax.Array  # bool: not padding
    overflow: jax.Array  # int32 scalar: kept positions that found no slot, of hard deletion


class LearnedGate(nn.Module):
    """G = k sigmoid(-(w . norm(h) + b)) (MrT5, eq. 1). `start`: where b starts, 1 in the original code. There G is
    -8 and attention all but off under softmax_1, which few steps do not undo."""

    d_model: int
    start: float = 1.0

    def setup(self):
        self.norm = RMSNorm(self.d_model, EPS)
        self.w = parameter(self, "w", normal(self.d_model**-0.5), (self.d_model, 1), ("embed", None))
        self.bias = parameter(self, "bias", nn.initializers.constant(self.start), (1,), (None,))

    def __call__(self, h_BSD, tokens_BS, segment_ids_BS):
        """[B, S] float32."""
        logit_BS = (self.norm(h_BSD) @ self.w.astype(jnp.float32))[..., 0] + self.bias.astype(jnp.float32)
        return DELETED * nn.sigmoid(-logit_BS)

    @nn.nowrap
    def flops(self):
        """Per position."""
        return 2 * self.d_model


class RandomGate(nn.Module):
    """Deletes each position with probability `rate`. The draws depend on the row's tokens, so that a row is always
    treated alike."""

    rate: float

    def __call__(self, h_BSD, tokens_BS, segment_ids_BS):
        """[B, S] float32: k or 0."""
        place_S = jnp.arange(tokens_BS.shape[1], dtype=jnp.uint32) * jnp.uint32(2654435761)
        read_BS = jnp.where(segment_ids_BS > 0, tokens_BS.astype(jnp.uint32) + 1, 0)
        seed_B = jnp.sum(read_BS * (place_S | 1), axis=1, dtype=jnp.uint32)
        keys_B = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(0), seed))(seed_B)
        u_BS = jax.vmap(lambda key: jax.random.uniform(key, tokens_BS.shape[1:]))(keys_B)
        return jnp.where(u_BS < self.rate, DELETED, 0.0)

    @nn.nowrap
    def flops(self):
        """No arithmetic worth counting."""
        return 0


class WordEndGate(nn.Module):
    """Deletes the last bytes of every word: `rate` of them, rounded so that the remainders add up along the row.

    A word is a run of bytes that are not spacelike, with the first spacelike byte before it.
    """

    rate: float

    def __call__(self, h_BSD, tokens_BS, segment_ids_BS):
        """[B, S] float32: k or 0."""
        space_BS = spacelike(tokens_BS)
        before_BS = jnp.pad(space_BS, ((0, 0), (1, 0)))[:, :-1]
        valid_BS = segment_ids_BS > 0
        start_BS = space_BS & ~before_BS & valid_BS
        position_S = jnp.arange(tokens_BS.shape[1])
        count_B1 = jnp.sum(valid_BS, axis=1, keepdims=True)
        first_BS = jax.lax.cummax(jnp.where(start_BS, position_S, 0), axis=1)
        next_BS = jax.lax.cummin(jnp.where(start_BS, position_S, count_B1), axis=1, reverse=True)
        end_BS = jnp.concatenate([next_BS[:, 1:], count_B1], axis=1)
        # Of the word [first, end): floor(rate end) - floor(rate first) positions go, which sums to the rate.
        gone_BS = jnp.floor(self.rate * end_BS) - jnp.floor(self.rate * first_BS)
        return jnp.where(position_S >= end_BS - gone_BS, DELETED, 0.0)

    @nn.nowrap
    def flops(self):
        """No arithmetic worth counting."""
        return 0


class DeletingEncoder(Encoder):
    """`Encoder` with a gate behind the first `before` blocks; later blocks and the decoder see what it leaves.

    `hard`: take the deleted positions out; where `forgets`, with the G of the others, as the released code. Then
    `capacity` is the number of slots over the number of positions (None: one per position); a kept position without a
    slot is lost and counted. Relative positions stay the original ones.
    """

    gate: nn.Module | None = None
    before: int = 3
    hard: bool = False
    forgets: bool = False
    capacity: float | None = None

    def __post_init__(self):
        if not 0 <= self.before <= self.layers:
            raise UserError(f"The gate stands behind 0 to {self.layers} of {self.layers} blocks, not {self.before}.")
        super().__post_init__()

    @nn.nowrap
    def slots(self, positions):
        """Static number of states of hard deletion."""
        return positions if self.capacity is None else min(positions, -(-math.ceil(positions * self.capacity) // 8) * 8)

    def __call__(self, x_BSD, tokens_BS, segment_ids_BS):
        """`Encoded`, whose `found` is a `Deletion`."""
        x_BSD, S = x_BSD.astype(jnp.float32), x_BSD.shape[1]
        bias, seen = self.relative(S, S), same_segment(segment_ids_BS, segment_ids_BS)
        for block in self.blocks[: self.before]:
            x_BSD = block(x_BSD, bias, seen)
        valid_BS = segment_ids_BS > 0
        gate_BS = jnp.where(valid_BS, self.gate(x_BSD, tokens_BS, segment_ids_BS), DELETED)
        kept_BS = valid_BS & (gate_BS >= DELETED / 2)
        key_bias_BS, overflow = gate_BS, jnp.zeros((), jnp.int32)
        if self.hard:
            c = compact(kept_BS, self.slots(S))
            position_BS = jnp.broadcast_to(jnp.arange(S), segment_ids_BS.shape)
            parts = (x_BSD, segment_ids_BS, position_BS, jnp.zeros_like(gate_BS) if self.forgets else gate_BS)
            x_BSD, segment_ids_BS, position_BS, key_bias_BS = (gather(v, c) for v in parts)
            overflow = jnp.sum(c.overflow_B)
            bias, seen = self.relative.at(position_BS, position_BS), same_segment(segment_ids_BS, segment_ids_BS)
        for block in self.blocks[self.before :]:
            x_BSD = block(x_BSD, bias, seen, key_bias_BS[:, None, None])
        found = Deletion(gate_BS, valid_BS & ~kept_BS, valid_BS, overflow)
        return Encoded(self.norm(x_BSD), segment_ids_BS, key_bias_BS, found)

    @nn.nowrap
    def flops(self, positions, ratios=()):
        """As `Encoder.flops`; hard deletion leaves 1 / `ratios[0]` of the positions, or a state per slot."""
        states = positions
        if self.hard:
            states = positions / ratios[0] if ratios else self.slots(positions)
        early, late = self.block_flops(positions), self.block_flops(states)
        parts = {"early": self.before * early, "gate": self.gate.flops() * positions}
        return parts | {"late": (self.layers - self.before) * late}, states
