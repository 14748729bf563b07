"""The parts of word models: HAT (arXiv 2501.10322) and Learn Your Tokens (arXiv 2310.11628), which are causal, and
HLM (arXiv 2305.14571), which fills gaps.

In the causal ones a symbol [W] ends every word (`lmlab.text.words`) and starts a chunk: what ends there is the word,
and from there on the next one is predicted, byte by byte and then [W]. BOS starts a chunk too, as a word of one
position. So no part looks ahead, though the encoder of a word sees it in both directions: it runs when the word is
over.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.dispatch import gather, rows_share, sharing
from lmlab.kernels.elementwise import linear
from lmlab.models.chunkers import AtTokens
from lmlab.models.hierarchy import Hierarchy
from lmlab.models.layers import normal, parameter
from lmlab.models.pool import Select
from lmlab.models.positions import offsets
from lmlab.models.stack import Stack
from lmlab.models.two_way import TwoWay, WithinWords
from lmlab.models.unpool import AddAtStarts, to_positions
from lmlab.models.within import WithinChunks


class AtSymbol(AtTokens):
    """A chunk at every `symbol`. `positions_per_chunk` is only what FLOPs and slots are planned with."""

    positions_per_chunk: float
    symbol: int = 256

    def at(self, tokens):
        """Where a word has ended."""
        return tokens == self.symbol


class WordEncoder(nn.Module):
    """A transformer over each chunk's span, in both directions; its output where the span ends, by a linear map.

    `outputs` k > 1: the outputs at the span's first k - 1 positions, then at its end, side by side: behind a word of k
    symbols the span of the next holds the last k - 1 of them, its bytes and its own first symbol, so k tokens to
    collect it in. Of a longer span than `longest` only the last positions are seen. `d_model`: width of what it gives.
    """

    width: int
    d_model: int
    layers: int
    d_ff: int
    n_heads: int
    longest: int
    outputs: int = 1
    remat: bool = False

    @nn.nowrap
    def _stack(self):
        rotary = self.width // self.n_heads // 2
        shape = dict(n_heads=self.n_heads, rotary_dim=rotary, remat=self.remat, longest=self.longest)
        return TwoWay(f"T{self.layers}", self.width, self.d_ff, **shape, parent=None)

    def setup(self):
        self.stack = self._stack()
        shape = (self.width, self.d_model // self.outputs)
        self.out = parameter(self, "out", normal(self.width**-0.5), shape, ("embed", None))

    def _encode(self, x_BLD, span_BL):
        return self.stack(x_BLD, None, span_BL)[0]

    def _out(self, y):
        """[.., k, D] -> [.., d_model]."""
        return linear(y.astype(self.out.dtype), self.out).reshape(*y.shape[:-2], self.d_model).astype(jnp.float32)

    def __call__(self, h_BLD, routing, c, segment_ids_BL):
        """[B, L, D] -> [B, C, d_model], zeros in empty slots."""
        B, L, D = h_BLD.shape
        position_L = jnp.arange(L)
        end_BL = jnp.flip(jax.lax.cummin(jnp.flip(jnp.where(c.kept_BL, position_L, L), 1), axis=1), 1)
        own_BL = segment_ids_BL == jnp.take_along_axis(segment_ids_BL, jnp.minimum(end_BL, L - 1), axis=1)
        seen_BL = own_BL & (end_BL < L) & (end_BL - position_L < self.longest)
        y_BLD = self._encode(h_BLD, jnp.where(seen_BL, end_BL + 1, 0))
        y_BC1D = gather(y_BLD, c)[:, :, None]
        if self.outputs == 1:
            return self._out(y_BC1D)
        end_BC1 = c.index_BC[..., None]
        before_BC1 = jnp.pad(end_BC1, ((0, 0), (1, 0), (0, 0)), constant_values=-1)[:, :-1]
        first_BC1 = jnp.maximum(before_BC1 + 1, end_BC1 - self.longest + 1)
        at_BCk = jnp.minimum(first_BC1 + jnp.arange(self.outputs - 1), end_BC1)

        def segment(at):
            return jnp.take_along_axis(segment_ids_BL, at.reshape(B, -1), axis=1).reshape(at.shape)

        at_BCk = jnp.where(segment(at_BCk) == segment(end_BC1), at_BCk, end_BC1)
        first_BCkD = jnp.take_along_axis(y_BLD, at_BCk.reshape(B, -1, 1), axis=1).reshape(*at_BCk.shape, D)
        out_BCE = self._out(jnp.concatenate([first_BCkD, y_BC1D], axis=2))
        return jnp.where(c.valid_BC[..., None], out_BCE, 0.0)

    @nn.nowrap
    def init_cache(self, batch):
        """The last positions, the newest at the end, and how many are of the span so far."""
        return {"h": jnp.zeros((batch, self.longest, self.width)), "count": jnp.zeros(batch, jnp.int32)}

    def cache_after(self, h_BLD, start_BL, valid_BL):
        """Cache behind right-padded prompts."""
        position_L = jnp.arange(h_BLD.shape[1])
        length_B = jnp.sum(valid_BL, axis=1, dtype=jnp.int32)
        last_B = jnp.max(jnp.where(start_BL & valid_BL, position_L, -1), axis=1)
        at_BM = jnp.clip(length_B[:, None] - self.longest + jnp.arange(self.longest), 0, h_BLD.shape[1] - 1)
        h_BMD = jnp.take_along_axis(h_BLD, at_BM[..., None], axis=1).astype(jnp.float32)
        return {"h": h_BMD, "count": jnp.minimum(length_B - 1 - last_B, self.longest)}

    def step(self, h_BD, start_B, cache):
        """(what a chunk that starts here would read [B, d_model], cache). The encoder runs only if some row needs it."""
        M = self.longest
        h_BMD = jnp.concatenate([cache["h"][:, 1:], h_BD[:, None].astype(jnp.float32)], axis=1)
        count_B = jnp.minimum(cache["count"] + 1, M)

        def run(mdl, h_BMD, count_B):
            y_BMD = mdl._encode(h_BMD, (jnp.arange(M) >= M - count_B[:, None]).astype(jnp.int32))
            first_Bk = jnp.minimum(M - count_B[:, None] + jnp.arange(mdl.outputs - 1), M - 1)
            at_Bk = jnp.concatenate([first_Bk, jnp.full_like(count_B[:, None], M - 1)], axis=1)
            return mdl._out(jnp.take_along_axis(y_BMD, at_Bk[..., None], axis=1))

        def rest(mdl, h_BMD, count_B):
            return jnp.zeros((len(h_BMD), mdl.d_model))

        pooled_BE = nn.cond(jnp.any(start_B), run, rest, self, h_BMD, count_B)
        return pooled_BE, {"h": h_BMD, "count": jnp.where(start_B, 0, count_B)}

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """The layers per position, every position against its word; per chunk, the map to the inner width and `Slots`'s
        back."""
        layers = sum(self._stack().flops(positions_per_chunk).values())
        return layers + 4 * self.width * self.d_model / positions_per_chunk


class Slots(nn.Module):
    """The k vectors of a chunk, by a linear map, added to the first k positions of its text: to the symbols of the
    word before. These are the same everywhere, so that adding is replacing, up to a learned constant.

    `d_model`: width of what it reads, all k side by side; `width`: of the positions.
    """

    width: int
    d_model: int
    slots: int = 1

    def setup(self):
        part = self.d_model // self.slots
        self.out = parameter(self, "out", normal(part**-0.5), (part, self.width), ("embed", None))

    def _apart(self, z):
        """[.., d_model] -> [.., k, width]."""
        z = z.reshape(*z.shape[:-1], self.slots, -1)
        return linear(z.astype(self.out.dtype), self.out).astype(jnp.float32)

    def __call__(self, z_BCE, h_BLD, routing, c, segment_ids_BL):
        """[B, C, d_model], [B, L, D] -> [B, L, D] float32."""
        v_BCD = self._apart(z_BCE).reshape(*z_BCE.shape[:2], -1)
        v_BLkD = to_positions(v_BCD, c, segment_ids_BL).reshape(*h_BLD.shape[:2], self.slots, self.width)
        here_BLk = offsets(c.kept_BL)[..., None] == jnp.arange(self.slots)
        return h_BLD.astype(jnp.float32) + jnp.sum(jnp.where(here_BLk[..., None], v_BLkD, 0.0), axis=2)

    def step(self, z_BE, h_BD, start_B, p_B, last_BE):
        """One position; `last_BE` holds what is left of the chunk's vectors, the next one first."""
        left_BE = jnp.where(start_B[:, None], z_BE, last_BE)
        part = self.d_model // self.slots
        rest_BE = jnp.pad(left_BE[:, part:], ((0, 0), (0, part)))
        return h_BD + self._apart(left_BE)[:, 0], rest_BE

    @nn.nowrap
    def init_cache(self, batch):
        """What is left of the last chunk."""
        return jnp.zeros((batch, self.d_model))

    def cache_after(self, z_BCE, routing, c, valid_BL):
        """What is left of each row's last chunk behind right-padded prompts."""
        last_B = jnp.maximum(jnp.sum(valid_BL, axis=1) - 1, 0)[:, None]
        z_BE = jnp.take_along_axis(z_BCE, jnp.take_along_axis(c.slot_BL, last_B, 1)[..., None], axis=1)[:, 0]
        used_B1 = jnp.take_along_axis(offsets(c.kept_BL), last_B, 1) + 1
        part_k = used_B1 + jnp.arange(self.slots)
        z_BkE = z_BE.astype(jnp.float32).reshape(len(z_BE), self.slots, -1)
        left = jnp.take_along_axis(z_BkE, jnp.minimum(part_k, self.slots - 1)[..., None], axis=1)
        return jnp.where((part_k < self.slots)[..., None], left, 0.0).reshape(z_BE.shape)

    @nn.nowrap
    def flops(self, positions_per_chunk):
        """Nothing here: `WordEncoder` counts this map, which is made per chunk, with its own."""
        return 0


class PerChunk(nn.Module):
    """A stack that reads each chunk as `positions` positions of its own, with the interface of a stack."""

    stack: nn.Module
    positions: int

    @property
    def d_model(self):
        """Width of all positions of a chunk, side by side."""
        return self.stack.d_model * self.positions

    def _apart(self, x_BCE):
        return x_BCE.reshape(x_BCE.shape[0], -1, self.stack.d_model)

    def _each(self, ids_BC):
        return jnp.repeat(ids_BC, self.positions, axis=1)

    def __call__(self, x_BCE, tokens_BC, segment_ids_BC, nominal=None, start_BL=None):
        """Returns (y_BCE, ())."""
        share = sharing()  # of rows that have so many positions to a slot
        with rows_share(share and share._replace(row_slots=share.row_slots * self.positions)):
            y_BMD, stages = self.stack(self._apart(x_BCE), self._each(tokens_BC), self._each(segment_ids_BC))
        return y_BMD.reshape(x_BCE.shape), stages

    @nn.nowrap
    def init_cache(self, batch, length):
        """The stack's, for `length` chunks."""
        return self.stack.init_cache(batch, length * self.positions)

    def prefill(self, x_BCE, tokens_BC, valid_BC, cache, start_BL=None):
        """Forward over right-padded chunks, with the caches behind each."""
        y_BMD, cache = self.stack.prefill(self._apart(x_BCE), self._each(tokens_BC), self._each(valid_BC), cache)
        return y_BMD.reshape(x_BCE.shape), cache

    def step(self, x_BE, tokens_B, cache, active_B, row_B=None, start_B=None):
        """One chunk for the active rows. `row_B`: see `Stack.step`."""
        parts = []
        for x_BD in jnp.split(x_BE, self.positions, axis=1):
            y_BD, cache = self.stack.step(x_BD, tokens_B, cache, active_B, row_B)
            parts.append(y_BD)
        return jnp.concatenate(parts, axis=1), cache

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per chunk, by part."""
        return {k: v * self.positions for k, v in self.stack.flops(length * self.positions, ratios).items()}


def word_model(tokenizer, width, d_ff, n_heads, encoder, decoder, main, capacity=None):
    """Backbone of a word model over the text of `tokenizer`, a `Words`.

    `width`, `d_ff`, `n_heads`: of the encoder within a word and of the decoder, which have `encoder` and `decoder`
    layers; `main`: the stack over words, which sees as many positions per word as there are symbols.
    """
    k, longest = tokenizer.symbols, tokenizer.max_bytes + tokenizer.symbols
    main = PerChunk(main, k) if k > 1 else main
    positions = tokenizer.bytes_per_word + k
    rotary = width // n_heads // 2
    local = Stack(f"T{decoder}", width, d_ff, n_heads=n_heads, rotary_dim=rotary, window=longest)
    return Hierarchy(
        encoder=Stack("T0", width),  # the words' encoder reads the embeddings
        chunker=AtSymbol(positions),
        pool=WordEncoder(width, main.d_model, encoder, d_ff, n_heads, longest, k),
        inner=main,
        unpool=Slots(width, main.d_model, k),
        decoder=WithinChunks(local, round(positions)),
        capacity=capacity,
    )


def masked_word_model(tokenizer, width, n_heads, intra, inter, last, capacity=None):
    """HLM's backbone over the text of `tokenizer`, a `Words` of one symbol; not causal, for `MaskedWords`.

    Its word begins with a symbol: the one that ends the word before, or BOS. `intra`: (layers, d_ff) of the encoder that
    sees one word; `inter`: of the stack that sees the symbols' states of all words; `last`: layers that see one word
    again, its own bytes as the encoder left them, and the word's state added to that of the symbol.
    """
    rotary, positions = width // n_heads // 2, tokenizer.bytes_per_word + 1

    def stack(layers, d_ff, longest=None):
        return TwoWay(f"T{layers}", width, d_ff, n_heads=n_heads, rotary_dim=rotary, longest=longest)

    def within(layers):
        return WithinWords(stack(layers, intra[1], tokenizer.max_bytes + 1), positions)

    return Hierarchy(
        encoder=within(intra[0]),
        chunker=AtSymbol(positions),
        pool=Select(width),
        inner=stack(*inter),
        unpool=AddAtStarts(width),
        decoder=within(last),
        capacity=capacity,
    )
