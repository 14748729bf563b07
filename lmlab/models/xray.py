"""XRayEmb (Pinter et al. 2021, "Learning to Look Inside"): a word's vector from its characters, and characters from a
vector, beside the tokens of a trained model.

Words of several tokens stand as one position each (lmlab/data/spelled_words.py). What the model reads there is the
encoder's vector, and where it expects one it spells it with the generator, so that the text keeps its exact code
length.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.dispatch import by_positions
from lmlab.kernels.elementwise import embed, linear, softmax_cross_entropy
from lmlab.kernels.gru import gru
from lmlab.models.language_model import LanguageModel
from lmlab.models.layers import RMSNorm, normal, parameter

CHARACTERS = 256
END = BEGIN = CHARACTERS  # what the generator writes behind a word, and reads before its first character


class SpelledOutput(NamedTuple):
    """What a forward pass returns."""

    logits: jax.Array  # float32 [B, L, V]: the next token, or that it is a word to be spelled
    stages: tuple
    spelled_BL: jax.Array  # float32: -log p of the characters of the word that follows, 0 where none does

    def nats(self, batch):
        """-log p of each target, the characters of words included: [B, L]."""
        return softmax_cross_entropy(self.logits, batch["targets"]) + self.spelled_BL


class CharacterGRU(nn.Module):
    """Characters' vectors [M, W, E] -> states [directions, M, W, H] float32; the second direction reads back from the
    last of `length_M` characters, and its states are in the order in which it reads."""

    d_character: int
    d_hidden: int
    directions: int = 1

    def setup(self):
        E, H, N = self.d_character, self.d_hidden, self.directions
        self.inputs = parameter(self, "inputs", normal(E**-0.5), (E, N * 3 * H), ("embed", None))
        self.inputs_bias = parameter(self, "inputs_bias", nn.initializers.zeros, (N * 3 * H,), (None,))
        self.states = parameter(self, "states", normal(H**-0.5), (N * H, 3 * H), (None, None))
        self.states_bias = parameter(self, "states_bias", nn.initializers.zeros, (N * H,), (None,))

    def __call__(self, x_MWE, length_M, given_MX=None):
        """`given_MX`: added to what the inputs give, at every position, [M, 3 H] (with one direction)."""
        (M, W, _), H, N = x_MWE.shape, self.d_hidden, self.directions
        x_MWX = linear(x_MWE.astype(self.inputs.dtype), self.inputs).astype(jnp.float32) + self.inputs_bias
        if given_MX is not None:
            x_MWX = x_MWX + given_MX[:, None]
        x_NMWGH = jnp.moveaxis(x_MWX.reshape(M, W, N, 3, H), 2, 0)
        if N == 2:
            x_NMWGH = jnp.stack([x_NMWGH[0], jnp.flip(x_NMWGH[1], 1)])
        first_NM1 = jnp.stack([jnp.zeros_like(length_M), W - length_M][:N])[..., None]
        return gru(x_NMWGH, self.states.reshape(N, H, 3, H), self.states_bias.reshape(N, H), first_NM1 == jnp.arange(W))

    @nn.nowrap
    def flops(self):
        """Forward FLOPs per character."""
        return self.directions * 6 * self.d_hidden * (self.d_character + self.d_hidden)


class CharacterEncoder(nn.Module):
    """Words' characters to vectors: a GRU in both directions, its two last states to the model's width."""

    d_model: int
    d_character: int
    d_hidden: int

    def setup(self):
        shape = (CHARACTERS, self.d_character)
        self.embedding = parameter(self, "embedding", normal(1.0), shape, (None, "embed"))
        self.gru = CharacterGRU(self.d_character, self.d_hidden, 2)
        self.out = parameter(self, "out", normal(0.02), (2 * self.d_hidden, self.d_model), (None, "embed"))

    def __call__(self, chance_MWC, length_M):
        """Chances of bytes at each place [M, W, 256] -> [M, D] float32. What lies behind `length_M` is not read."""
        h_NMWH = self.gru(linear(chance_MWC.astype(self.embedding.dtype), self.embedding), length_M)
        last_M = jnp.maximum(length_M - 1, 0)
        forward_MH = jnp.take_along_axis(h_NMWH[0], last_M[:, None, None], axis=1)[:, 0]
        both = jnp.concatenate([forward_MH, h_NMWH[1, :, -1]], axis=-1)
        return linear(both.astype(self.out.dtype), self.out).astype(jnp.float32)

    @nn.nowrap
    def flops(self, longest):
        """Forward FLOPs per word, its embedding as a product."""
        per_character = 2 * CHARACTERS * self.d_character + CharacterGRU(self.d_character, self.d_hidden, 2).flops()
        return longest * per_character + 4 * self.d_hidden * self.d_model


class CharacterGenerator(nn.Module):
    """Vectors to words' characters, one after another: a GRU that is told the normed vector at every character."""

    d_model: int
    d_character: int
    d_hidden: int

    def setup(self):
        C, E, H = CHARACTERS + 1, self.d_character, self.d_hidden
        self.norm = RMSNorm(self.d_model)
        self.told = parameter(self, "told", normal(self.d_model**-0.5), (self.d_model, 3 * H), ("embed", None))
        self.embedding = parameter(self, "embedding", normal(1.0), (C, E), (None, "embed"))
        self.gru = CharacterGRU(E, H)
        self.head = parameter(self, "head", normal(0.02), (H, C), (None, None))

    def __call__(self, x_MD, characters_MW):
        """[M, D], bytes [M, W] with -1 behind -> logits of characters and `END`, float32 [M, W + 1, 257]."""
        told_MX = linear(self.norm(x_MD).astype(self.told.dtype), self.told).astype(jnp.float32)
        before_MW = jnp.pad(characters_MW, ((0, 0), (1, 0)), constant_values=BEGIN)
        length_M = jnp.full(len(x_MD), before_MW.shape[1])
        h_MWH = self.gru(embed(self.embedding, jnp.maximum(before_MW, 0)), length_M, told_MX)[0]
        return linear(h_MWH.astype(self.head.dtype), self.head).astype(jnp.float32)

    @nn.nowrap
    def flops(self, longest):
        """Forward FLOPs per word, its embedding as a product."""
        C, E, H = CHARACTERS + 1, self.d_character, self.d_hidden
        return (longest + 1) * (2 * C * (E + H) + CharacterGRU(E, H).flops()) + 6 * self.d_model * H


class XRay(LanguageModel):
    """A `LanguageModel` of tokens, its last id a word that is read and written by its characters.

    `longest`: bytes of a word.
    """

    longest: int = 16
    d_character: int = 32
    d_hidden: int = 128

    def setup(self):
        super().setup()
        sizes = self.backbone.d_model, self.d_character, self.d_hidden
        self.encoder, self.generator = CharacterEncoder(*sizes), CharacterGenerator(*sizes)

    def encode(self, characters_MW):
        """Words, bytes [M, W] with -1 behind -> vectors [M, D] float32."""
        return self.encoder(jax.nn.one_hot(characters_MW, CHARACTERS), jnp.sum(characters_MW >= 0, axis=1))

    def spell(self, x_MD):
        """The likeliest characters one by one: int32 [M, longest], -1 behind `END`."""

        def write(t, characters_MW):
            best_M = jnp.argmax(self.generator(x_MD, characters_MW)[:, t], axis=-1)
            over_M = (best_M == END) | ((t > 0) & (characters_MW[:, t - 1] < 0))
            return characters_MW.at[:, t].set(jnp.where(over_M, -1, best_M))

        characters_MW = jnp.full((len(x_MD), self.longest), -1)
        for t in range(self.longest):
            characters_MW = write(t, characters_MW)
        return characters_MW

    def spelled_nats(self, x_MD, characters_MW):
        """-log p of each word's characters and of its end, given its vector: [M]."""
        nats_MW = _character_nats(self.generator(x_MD, characters_MW), characters_MW)
        return jnp.sum(nats_MW, axis=1)

    def look_inside(self, x_MD, characters_MW):
        """What encoder and generator learn from tokens, their rows [M, D] and their characters, four losses [M] each.

        "regression": how far the encoder's vector is from the row, squared, over the rows' mean square; "generation":
        nats per character of the row spelled; and there and back again, "characters": of the encoder's vector spelled;
        "vectors": of what the generator expects at each character, read by the encoder.
        """
        length_M = jnp.sum(characters_MW >= 0, axis=1)
        scale = jnp.mean(jnp.sum(x_MD**2, axis=1)) + 1e-12
        far = lambda y_MD: jnp.sum((y_MD - x_MD) ** 2, axis=1) / scale  # noqa: E731
        per_character = lambda logits: (  # noqa: E731
            jnp.sum(_character_nats(logits, characters_MW), axis=1) / (length_M + 1)
        )
        read_MD, logits_MWC = self.encode(characters_MW), self.generator(x_MD, characters_MW)
        expected_MWC = jax.nn.softmax(logits_MWC[:, :-1, :CHARACTERS], axis=-1)
        return {
            "regression": far(read_MD),
            "generation": per_character(logits_MWC),
            "characters": per_character(self.generator(read_MD, characters_MW)),
            "vectors": far(self.encoder(expected_MWC, length_M)),
        }

    def __call__(self, tokens_BL, segment_ids_BL=None, words_BSW=None, place_BS=None):
        """`words_BSW`, `place_BS`: "inputs" and "input_segment_ids" of `SpelledWords`. None: no words, which is good
        enough to make parameters."""
        (B, L), D = tokens_BL.shape, self.backbone.d_model
        if segment_ids_BL is None:
            segment_ids_BL = jnp.ones_like(tokens_BL)
        if words_BSW is None:
            words_BSW, place_BS = jnp.full((B, 1, self.longest), -1), jnp.zeros((B, 1), jnp.int32)
        S, characters_MW, row_B1 = place_BS.shape[1], words_BSW.reshape(-1, words_BSW.shape[-1]), jnp.arange(B)[:, None]
        x_BLD, e_BSD = self.embed_tokens(tokens_BL), self.encode(characters_MW).reshape(B, S, D)
        at_BS = jnp.where(place_BS > 0, place_BS, L)
        x_BLD = by_positions(x_BLD.at[row_B1, at_BS].set(e_BSD.astype(x_BLD.dtype), mode="drop"))
        y_BLD, stages = self.backbone(x_BLD, tokens_BL, segment_ids_BL)
        before_BS1 = jnp.maximum(place_BS - 1, 0)[..., None]
        h_MD = jnp.take_along_axis(y_BLD, before_BS1, axis=1).reshape(-1, D)
        nats_BS = self.spelled_nats(h_MD, characters_MW).reshape(B, S)
        spelled_BL = jnp.zeros((B, L)).at[row_B1, at_BS - 1].add(jnp.where(place_BS > 0, nats_BS, 0.0), mode="drop")
        return SpelledOutput(self._logits(y_BLD), stages, spelled_BL)

    @nn.nowrap
    def word_flops(self):
        """Forward FLOPs to read a word and to write it."""
        sizes = self.backbone.d_model, self.d_character, self.d_hidden
        parts = (CharacterEncoder(*sizes, parent=None), CharacterGenerator(*sizes, parent=None))
        return sum(part.flops(self.longest) for part in parts)

    @nn.nowrap
    def flops(self, length, words):
        """Forward FLOPs per token by part, in rows of `length` positions with room for `words`."""
        return super().flops(length) | {"characters": self.word_flops() * words / length}


def _character_nats(logits_MWC, characters_MW):
    """-log p of each character and of the end behind them, [M, W + 1]; 0 behind that, and of no word."""
    M, W = characters_MW.shape
    length_M = jnp.sum(characters_MW >= 0, axis=1)
    place_X = jnp.arange(W + 1)
    targets_MX = jnp.where(place_X == length_M[:, None], END, jnp.pad(characters_MW, ((0, 0), (0, 1))))
    counts_MX = (place_X <= length_M[:, None]) & (length_M[:, None] > 0)
    return softmax_cross_entropy(logits_MWC, jnp.maximum(targets_MX, 0)) * counts_MX
