"""The skeleton of the byte family: encoder -> chunker -> pool -> inner -> unpool -> decoder.

`inner` is a stack or again a hierarchy. H-Net (arXiv 2507.07955, section 2), SpaceByte, MegaByte-like strides, BLT,
AU-Net and their mixtures differ in the parts, not here.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.dispatch import compact, gather, rows_share, rows_to_join, sharing, slot_unit, spread
from lmlab.kernels.shared_rows import Sharing, join, joined_ids, row_counts
from lmlab.models.cache import put, take
from lmlab.models.layers import parameter


# Slots that one of the rows that share them may take, over its share: in the outermost stage, and within. In nine of ten
# batches of a trained 2-stage H-Net four rows need up to 1.23 and 1.48 slots per planned chunk, stage by stage, and the
# fullest of eight 1.43 and 2.02.
FULLEST = (1.2, 1.4)


class Fit(NamedTuple):
    """Static: room for the chunks of a batch."""

    rows: int  # that are joined to share slots
    slots: int  # of a joined row
    row_slots: int | None  # that one of its rows may take; None: all


class Stage(NamedTuple):
    """What one stage decided, for losses, metrics and pictures."""

    start_BL: jax.Array  # bool, at the positions of the hierarchy's own input: a chunk of this stage starts here
    starts: jax.Array  # int32 scalar: chunk starts of this stage
    positions: jax.Array  # int32 scalar: positions that it chose from
    probability_BL: jax.Array  # float32, like start_BL: p where this stage chose from, else 0
    overflow: jax.Array  # int32 scalar: starts that found no slot
    slots: jax.Array  # int32 scalar: chunk slots that the inner network computed, all rows
    auxiliary: jax.Array  # float32 scalar: weighted auxiliary loss


class Hierarchy(nn.Module):
    """[B, L, D] -> [B, L, D] through chunks.

    The pool makes vectors of its `d_model`, widened to the inner network's; the unpool reads its `d_model` first channels
    of what comes back. An encoder may hand on more channels than D to parts that know which are theirs.

    `capacity` is the number of chunk slots as a multiple of the nominal number, bytes / `positions_per_chunk` of this
    stage and of those outside.
    One number: fixed, of every row. A start without a slot joins the chunk before it and is counted in `Stage.overflow`.
    Several, rising: exact. Rows of a device share slots (`lmlab.kernels.shared_rows`), and the smallest capacity that
    holds the chunks of all is chosen in every step, or one slot per position where none does; nothing ever overflows.
    A differentiated switch keeps the residuals of all its branches, so that only the smallest, which a settled router
    should need, has its own kept; the others are computed again backward.
    None: a slot for every position.
    """

    encoder: nn.Module
    chunker: nn.Module
    pool: nn.Module
    inner: nn.Module
    unpool: nn.Module
    decoder: nn.Module
    capacity: float | tuple[float, ...] | None = None

    def __post_init__(self):
        if self.capacity is not None and not all(c > 0 for c in self._capacities()):
            raise UserError(f"A hierarchy's capacity is above 0, not {self.capacity}.")
        super().__post_init__()

    @nn.nowrap
    def _capacities(self):
        return self.capacity if isinstance(self.capacity, tuple) else (self.capacity,)

    @property
    def d_model(self):
        """Width at the positions of this stage."""
        return self.encoder.d_model

    def setup(self):
        extra = self.inner.d_model - self.pool.d_model
        if extra:
            # H-Net widens by one trainable vector behind the channels, the same at every chunk.
            self.widen = parameter(self, "widen", nn.initializers.zeros, (extra,), (None,))

    def _widen(self, x):
        extra = self.inner.d_model - self.pool.d_model
        if not extra:
            return x
        return jnp.concatenate([x, jnp.broadcast_to(self.widen, (*x.shape[:-1], extra)).astype(x.dtype)], -1)

    def slots(self, length, nominal=None):
        """Static numbers of chunk slots of a row of `length` positions, rising; exact if the last is `length`.

        `nominal`: how many of the positions are planned to be filled; None: all.
        """
        if self.capacity is None:
            return (length,)
        chunks, unit = (nominal or length) / self.chunker.positions_per_chunk, slot_unit()
        counts = [min(length, -(-math.ceil(chunks * c) // unit) * unit) for c in self._capacities()]
        return tuple(sorted({*counts, length} if isinstance(self.capacity, tuple) else counts))

    def _loses_nothing(self):
        """Whether this stage is exact, and those within it too: what overflows, overflows row by row."""
        within = self.inner
        while isinstance(within, Hierarchy):
            if isinstance(within.capacity, int | float):
                return False
            within = within.inner
        return isinstance(self.capacity, tuple)

    def _fits(self, rows, length, nominal):
        """The `Fit` of each of `slots`. Rows that are joined already are not joined again; those that have a slot for
        every position need not be."""
        share, counts = sharing(), self.slots(length, nominal)
        if share:
            within = [min(share.row_slots, math.ceil(FULLEST[1] * n / share.rows)) for n in counts]
            return [Fit(1, n, share.row_slots if n == length else own) for n, own in zip(counts, within, strict=True)]
        joined = rows_to_join(rows) if self._loses_nothing() else 1
        if joined == 1:
            return [Fit(1, n, None) for n in counts]
        fits = [Fit(joined, joined * n, min(length, math.ceil(FULLEST[0] * n))) for n in counts[:-1]]
        return [*fits, Fit(1, length, None)]

    def _through_chunks(self, fit, nominal, h_BLD, tokens_BL, segment_ids_BL, routing):
        """What the decoder reads, the inner stages at this stage's positions, and the number of lost starts."""
        (B, L), share = tokens_BL.shape, sharing()
        if fit.rows > 1:
            share = Sharing(fit.rows, L + 1, fit.row_slots)
            h_BLD, tokens_BL, start_BL, p_BL = (
                join(x, fit.rows) for x in (h_BLD, tokens_BL, routing.start_BL, routing.probability_BL)
            )
            segment_ids_BL = joined_ids(segment_ids_BL, fit.rows)
            routing = routing._replace(start_BL=start_BL, probability_BL=p_BL)
        elif share:
            share = share._replace(row_slots=fit.row_slots)
        c = compact(routing.start_BL, fit.slots)
        segment_ids_BC = gather(segment_ids_BL, c)
        chunks_BCD = self._widen(self.pool(h_BLD, routing, c, segment_ids_BL))
        with rows_share(share):
            z_BCE, inner = self.inner(chunks_BCD, gather(tokens_BL, c), segment_ids_BC, nominal * fit.rows)
        y_BLD = self.unpool(z_BCE[..., : self.unpool.d_model], h_BLD, routing, c, segment_ids_BL)

        def at_starts(x_BC):
            return jnp.where(c.kept_BL, spread(x_BC, c), jnp.zeros((), x_BC.dtype)).reshape(B, L)

        outward = tuple(
            s._replace(start_BL=at_starts(s.start_BL), probability_BL=at_starts(s.probability_BL)) for s in inner
        )
        slots = jnp.asarray(c.index_BC.size, jnp.int32)
        return y_BLD.reshape(B, L, -1), outward, jnp.sum(c.overflow_B), slots

    def _choice(self, fits, start_BL, segment_ids_BL):
        """Which of the rising `fits` is the first that holds all chunks."""
        share = sharing()
        by_row_BR = row_counts(start_BL, segment_ids_BL, share) if share else jnp.sum(start_BL, axis=1)[:, None]

        def holds(fit):
            held = jnp.max(jnp.sum(by_row_BR.reshape(len(start_BL) // fit.rows, -1), axis=1)) <= fit.slots
            return held if fit.row_slots is None else held & (jnp.max(by_row_BR) <= fit.row_slots)

        return jnp.argmax(jnp.stack([*map(holds, fits[:-1]), jnp.array(True)]))

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL, nominal=None, start_BL=None):
        """Returns (y_BLD, stages), the stages from the outside in. `nominal`: see `slots`; `start_BL`: see `Stack`."""
        h_BLD, _ = self.encoder(x_BLD, tokens_BL, segment_ids_BL)
        routing = self.chunker(h_BLD, tokens_BL, segment_ids_BL)
        fits = self._fits(*tokens_BL.shape, nominal)
        chunks = (nominal or x_BLD.shape[1]) / self.chunker.positions_per_chunk
        operands = (h_BLD, tokens_BL, segment_ids_BL, routing)
        if len(fits) == 1 or self.is_initializing():
            y_BLD, outward, overflow, computed = self._through_chunks(fits[-1], chunks, *operands)
        else:
            branches = [lambda mdl, *operands, fit=fit: mdl._through_chunks(fit, chunks, *operands) for fit in fits]
            branches[1:] = [nn.remat(branch, prevent_cse=False) for branch in branches[1:]]
            choice = self._choice(fits, routing.start_BL, segment_ids_BL)
            y_BLD, outward, overflow, computed = nn.switch(choice, branches, self, *operands)
        y_BLD, _ = self.decoder(y_BLD, tokens_BL, segment_ids_BL, start_BL=routing.start_BL)
        stage = Stage(
            start_BL=routing.start_BL,
            starts=jnp.sum(routing.start_BL),
            positions=jnp.sum(segment_ids_BL > 0),
            probability_BL=routing.probability_BL,
            overflow=overflow,
            slots=computed,
            auxiliary=routing.auxiliary,
        )
        return y_BLD, (stage, *outward)

    @nn.nowrap
    def init_cache(self, batch, length):
        """Caches of all parts; every inner cache has room for a chunk at each of `length` positions."""
        return {
            "encoder": self.encoder.init_cache(batch, length),
            "chunker": self.chunker.init_cache(batch),
            "pool": self.pool.init_cache(batch),
            "inner": self.inner.init_cache(batch, length),
            "unpool": self.unpool.init_cache(batch),
            "decoder": self.decoder.init_cache(batch, length),
        }

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache, start_BL=None):
        """Forward over right-padded prompts with a slot for every position; (y_BLD, cache behind each prompt)."""
        segment_ids_BL = valid_BL.astype(jnp.int32)
        h_BLD, encoder = self.encoder.prefill(x_BLD, tokens_BL, valid_BL, cache["encoder"])
        routing = self.chunker(h_BLD, tokens_BL, segment_ids_BL)
        c = compact(routing.start_BL, x_BLD.shape[1])
        z_BCE, inner = self.inner.prefill(
            self._widen(self.pool(h_BLD, routing, c, segment_ids_BL)), gather(tokens_BL, c), c.valid_BC, cache["inner"]
        )
        z_BCE = z_BCE[..., : self.unpool.d_model]
        y_BLD = self.unpool(z_BCE, h_BLD, routing, c, segment_ids_BL)
        y_BLD, decoder = self.decoder.prefill(y_BLD, tokens_BL, valid_BL, cache["decoder"], routing.start_BL)
        return y_BLD, {
            "encoder": encoder,
            "chunker": self.chunker.cache_after(h_BLD, tokens_BL, valid_BL),
            "pool": self.pool.cache_after(h_BLD, routing.start_BL, valid_BL),
            "inner": inner,
            "unpool": self.unpool.cache_after(z_BCE, routing, c, valid_BL),
            "decoder": decoder,
        }

    def step(self, x_BD, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One position for the active rows. `row_B`: see `Stack.step`.

        The inner network runs over the rows that start a chunk only, a quarter of the batch at a time.
        """
        B = x_BD.shape[0]
        h_BD, encoder = self.encoder.step(x_BD, tokens_B, cache["encoder"], active_B, row_B)
        start_B, p_B, chunker = self.chunker.step(h_BD, tokens_B, take(cache["chunker"], row_B))
        start_B &= active_B
        pooled_BD, pool = self.pool.step(h_BD, start_B, take(cache["pool"], row_B))
        group, starts = max(1, B // 4), jnp.sum(start_B)
        first_B = jnp.argsort(~start_B, stable=True)  # the rows that start a chunk, then the others

        def run(mdl, carry):
            done, z_BE, inner = carry
            at_G = jnp.minimum(done + jnp.arange(group), B - 1)
            live_G, pick_G = done + jnp.arange(group) < starts, first_B[at_G]
            row_G = pick_G if row_B is None else row_B[pick_G]
            z_GE, inner = mdl.inner.step(mdl._widen(pooled_BD[pick_G]), tokens_B[pick_G], inner, live_G, row_G)
            z_GE = z_GE[:, : mdl.unpool.d_model].astype(jnp.float32)
            return done + group, z_BE.at[jnp.where(live_G, pick_G, B)].set(z_GE, mode="drop"), inner

        carry = 0, jnp.zeros((B, self.unpool.d_model), jnp.float32), cache["inner"]
        _, z_BE, inner = nn.while_loop(lambda mdl, carry: carry[0] < starts, run, self, carry)
        y_BD, unpool = self.unpool.step(z_BE, h_BD, start_B, p_B, take(cache["unpool"], row_B))
        y_BD, decoder = self.decoder.step(y_BD, tokens_B, cache["decoder"], active_B, row_B, start_B)
        return y_BD, {
            "encoder": encoder,
            "chunker": put(cache["chunker"], chunker, active_B, row_B),
            "pool": put(cache["pool"], pool, active_B, row_B),
            "inner": inner,
            "unpool": put(cache["unpool"], unpool, active_B, row_B),
            "decoder": decoder,
        }

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per position of this stage by part.

        `ratios`: measured positions per chunk of each stage, from the outside in; without them, the chunkers' nominal.
        """
        ratio, deeper = (ratios[0], ratios[1:]) if ratios else (self.chunker.positions_per_chunk, ())
        parts = {f"encoder/{k}": v for k, v in self.encoder.flops(length).items()}
        parts["chunking"] = self.chunker.flops() + self.pool.flops(ratio) + self.unpool.flops(ratio)
        parts |= {f"inner/{k}": v / ratio for k, v in self.inner.flops(length / ratio, deeper).items()}
        parts |= {f"decoder/{k}": v for k, v in self.decoder.flops(length).items()}
        return parts


def _with_parts(model, change, **fields):
    """`model` with `change` made to every module that it is built of, and other `fields`."""
    parts = {name: part for name in model.__dataclass_fields__ if isinstance(part := getattr(model, name), nn.Module)}
    return model.clone(**{name: change(part) for name, part in parts.items() if name != "parent"}, **fields)


def uncapped(model):
    """The same model with a slot for every position in every stage: nothing overflows."""
    return _with_parts(model, uncapped, **{"capacity": None} if hasattr(model, "capacity") else {})


def rematerialised(model):
    """The same model whose blocks are computed again backward: only what enters a block is kept."""
    return _with_parts(model, rematerialised, **{"remat": True} if hasattr(model, "remat") else {})
