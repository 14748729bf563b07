"""The skeleton of the byte family: encoder -> chunker -> pool -> inner -> unpool -> decoder.

`inner` is a stack or again a hierarchy. H-Net (arXiv 2507.07955, section 2), SpaceByte, MegaByte-like strides
and their mixtures differ in the parts, not here.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.compaction import compact, gather
from lmlab.models.layers import parameter


class Stage(NamedTuple):
    """What one stage decided, for losses, metrics and pictures."""

    start_BL: jax.Array  # bool, at the positions of the hierarchy's own input: a chunk of this stage starts here
    starts: jax.Array  # int32 scalar: chunk starts of this stage
    positions: jax.Array  # int32 scalar: positions that it chose from
    probability: jax.Array  # float32 scalar: sum of p over those positions
    overflow: jax.Array  # int32 scalar: starts that found no slot
    auxiliary: jax.Array  # float32 scalar: weighted auxiliary loss


class Hierarchy(nn.Module):
    """[B, L, D] -> [B, L, D] through chunks.

    `capacity` is the number of chunk slots as a share of the positions; None gives a slot to every position, so
    that nothing can overflow. Training picks a share somewhat above 1/N; a start without a slot joins the chunk
    before it and is counted in `Stage.overflow`.
    """

    encoder: nn.Module
    chunker: nn.Module
    inner: nn.Module
    unpool: nn.Module
    decoder: nn.Module
    capacity: float | None = None

    @property
    def d_model(self):
        """Width at the positions of this stage."""
        return self.encoder.d_model

    def setup(self):
        extra = self.inner.d_model - self.d_model
        if extra:
            # H-Net widens by one trainable vector behind the channels, the same at every chunk.
            self.widen = parameter(self, "widen", nn.initializers.zeros, (extra,), (None,))

    def _widen(self, x):
        extra = self.inner.d_model - self.d_model
        if not extra:
            return x
        return jnp.concatenate([x, jnp.broadcast_to(self.widen, (*x.shape[:-1], extra)).astype(x.dtype)], -1)

    def slots(self, length):
        """Static number of chunk slots for `length` positions."""
        if self.capacity is None:
            return length
        return min(length, -(-math.ceil(length * self.capacity) // 8) * 8)

    def __call__(self, x_BLD, tokens_BL, segment_ids_BL):
        """Returns (y_BLD, stages), the stages from the outside in."""
        h_BLD, _ = self.encoder(x_BLD, tokens_BL, segment_ids_BL)
        routing = self.chunker(h_BLD, tokens_BL, segment_ids_BL)
        c = compact(routing.start_BL, self.slots(x_BLD.shape[1]))
        segment_ids_BC = gather(segment_ids_BL, c)
        z_BCE, inner = self.inner(self._widen(gather(h_BLD, c)), gather(tokens_BL, c), segment_ids_BC)
        y_BLD = self.unpool(z_BCE[..., : self.d_model], h_BLD, routing, c, segment_ids_BC)
        y_BLD, _ = self.decoder(y_BLD, tokens_BL, segment_ids_BL)
        stage = Stage(
            start_BL=routing.start_BL,
            starts=jnp.sum(routing.start_BL),
            positions=jnp.sum(segment_ids_BL > 0),
            probability=jnp.sum(routing.probability_BL),
            overflow=jnp.sum(c.overflow_B),
            auxiliary=routing.auxiliary,
        )
        slot = jnp.minimum(c.slot_BL, z_BCE.shape[1] - 1)
        outward = tuple(
            s._replace(start_BL=jnp.take_along_axis(s.start_BL, slot, axis=1) & c.kept_BL) for s in inner
        )
        return y_BLD, (stage, *outward)

    @nn.nowrap
    def init_cache(self, batch, length):
        """Caches of all parts; every inner cache has room for a chunk at each of `length` positions."""
        return {
            "encoder": self.encoder.init_cache(batch, length),
            "chunker": self.chunker.init_cache(batch),
            "inner": self.inner.init_cache(batch, length),
            "last": jnp.zeros((batch, self.d_model)),
            "decoder": self.decoder.init_cache(batch, length),
        }

    def prefill(self, x_BLD, tokens_BL, valid_BL, cache):
        """Forward over right-padded prompts with a slot for every position; (y_BLD, cache behind each prompt)."""
        segment_ids_BL = valid_BL.astype(jnp.int32)
        h_BLD, encoder = self.encoder.prefill(x_BLD, tokens_BL, valid_BL, cache["encoder"])
        routing = self.chunker(h_BLD, tokens_BL, segment_ids_BL)
        c = compact(routing.start_BL, x_BLD.shape[1])
        z_BCE, inner = self.inner.prefill(
            self._widen(gather(h_BLD, c)), gather(tokens_BL, c), c.valid_BC, cache["inner"]
        )
        z_BCD = z_BCE[..., : self.d_model]
        y_BLD = self.unpool(z_BCD, h_BLD, routing, c, gather(segment_ids_BL, c))
        y_BLD, decoder = self.decoder.prefill(y_BLD, tokens_BL, valid_BL, cache["decoder"])
        return y_BLD, {
            "encoder": encoder,
            "chunker": self.chunker.cache_after(h_BLD, tokens_BL, valid_BL),
            "inner": inner,
            "last": self.unpool.last(z_BCD, routing, c, c.valid_BC),
            "decoder": decoder,
        }

    def step(self, x_BD, tokens_B, cache, active_B):
        """One position; the inner network runs only if an active row starts a chunk."""
        h_BD, encoder = self.encoder.step(x_BD, tokens_B, cache["encoder"], active_B)
        start_B, p_B, chunker = self.chunker.step(h_BD, tokens_B, cache["chunker"], active_B)

        def run(mdl, inner):
            z_BE, inner = mdl.inner.step(mdl._widen(h_BD), tokens_B, inner, start_B)
            return z_BE[:, : mdl.d_model].astype(jnp.float32), inner

        def skip(mdl, inner):
            return jnp.zeros(h_BD.shape, jnp.float32), inner

        z_BD, inner = nn.cond(jnp.any(start_B), run, skip, self, cache["inner"])
        y_BD, last_BD = self.unpool.step(z_BD, h_BD, start_B, p_B, cache["last"])
        last_BD = jnp.where(active_B[:, None], last_BD, cache["last"])
        y_BD, decoder = self.decoder.step(y_BD, tokens_B, cache["decoder"], active_B)
        return y_BD, {"encoder": encoder, "chunker": chunker, "inner": inner, "last": last_BD, "decoder": decoder}

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per position of this stage by part.

        `ratios`: measured positions per chunk of each stage, from the outside in; without them, the chunkers' nominal.
        """
        ratio, deeper = (ratios[0], ratios[1:]) if ratios else (self.chunker.positions_per_chunk, ())
        parts = {f"encoder/{k}": v for k, v in self.encoder.flops(length).items()}
        parts["chunking"] = self.chunker.flops() + self.unpool.flops()
        parts |= {f"inner/{k}": v / ratio for k, v in self.inner.flops(length / ratio, deeper).items()}
        parts |= {f"decoder/{k}": v for k, v in self.decoder.flops(length).items()}
        return parts


def uncapped(model):
    """The same model with a slot for every position in every stage: nothing overflows."""
    if isinstance(model, Hierarchy):
        return model.clone(capacity=None, inner=uncapped(model.inner))
    if hasattr(model, "backbone"):
        return model.clone(backbone=uncapped(model.backbone))
    return model
