"""CharBERT (Ma et al. 2020, arXiv 2011.01513): an encoder with a channel for subwords and one for their characters.

A GRU in both directions reads the characters of the whole row; a token's vector in the character channel is what it
holds at the token's first and last character, side by side. Both channels go through the same transformer blocks, and
behind each block one module, the same everywhere, lets them read each other: as the released code has it. What the
paper has and the code leaves out, the projections behind the convolutions, is here.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.elementwise import embed, linear
from lmlab.kernels.gru import gru
from lmlab.models.chunkers import segment_starts
from lmlab.models.language_model import LanguageModel, Output
from lmlab.models.layers import LayerNorm, normal, parameter
from lmlab.models.two_way import TwoWay

CHARACTERS = 258  # bytes, what stands for a hidden token, what stands for a token without bytes


def neighbour(x_BLD, segment_ids_BL, offset):
    """x at position l + offset, zeros where that is of another segment or outside of the row."""
    before, behind = max(-offset, 0), max(offset, 0)

    def shift(x):
        return jnp.pad(x, ((0, 0), (before, behind)) + ((0, 0),) * (x.ndim - 2))[:, behind : behind + x.shape[1]]

    return jnp.where((shift(segment_ids_BL) == segment_ids_BL)[..., None], shift(x_BLD), 0)


class Interaction(nn.Module):
    """The heterogeneous interaction module (section 3.3): two channels [B, L, D] -> the same, each with what both hold
    around its position.

    [t'; c'] = [W1 t + b1; W2 c + b2],    m = tanh of 1-D convolutions over it, one per width, side by side,
    t <- LayerNorm(t + gelu(W4 m + b4)),    c <- LayerNorm(c + gelu(W5 m + b5)).
    UserError for widths that are not odd, or among which D is not divided evenly.
    """

    d_model: int
    widths: tuple[int, ...] = (1, 3, 5)

    def setup(self):
        D, n = self.d_model, len(self.widths)
        if not n or D % n or not all(w % 2 for w in self.widths):
            raise UserError(f"Convolutions of odd widths share {D} channels evenly; {self.widths} do not.")
        for name in ("token_in", "character_in"):
            self._linear(name, D, D, D**-0.5)
        for w in self.widths:
            self._linear(f"around{w}", 2 * w * D, D // n, (2 * w * D) ** -0.5)
        for name in ("token_out", "character_out"):
            self._linear(name, D, D, 0.02)
        self.token_norm, self.character_norm = LayerNorm(D), LayerNorm(D)

    def _linear(self, name, inputs, outputs, std):
        setattr(self, name, parameter(self, name, normal(std), (inputs, outputs), ("embed", None)))
        setattr(self, f"{name}_bias", parameter(self, f"{name}_bias", nn.initializers.zeros, (outputs,), (None,)))

    def _through(self, name, x):
        w = getattr(self, name)
        return linear(x.astype(w.dtype), w) + getattr(self, f"{name}_bias").astype(w.dtype)

    def __call__(self, t_BLD, c_BLD, segment_ids_BL):
        """Returns (t_BLD, c_BLD), float32."""
        both = jnp.concatenate([self._through("token_in", t_BLD), self._through("character_in", c_BLD)], axis=-1)
        reach, E = max(self.widths) // 2, both.shape[-1]
        near = jnp.concatenate([neighbour(both, segment_ids_BL, o) for o in range(-reach, reach + 1)], axis=-1)

        def around(w):
            first = reach - w // 2
            return jnp.tanh(self._through(f"around{w}", near[..., first * E : (first + w) * E]))

        m = jnp.concatenate([around(w) for w in self.widths], axis=-1)
        t_BLD = t_BLD + jax.nn.gelu(self._through("token_out", m))
        c_BLD = c_BLD + jax.nn.gelu(self._through("character_out", m))
        return self.token_norm(t_BLD), self.character_norm(c_BLD)

    @nn.nowrap
    def flops(self):
        """Forward FLOPs per position, the products only."""
        D = self.d_model
        return 8 * D * D + 4 * D * D * sum(self.widths) // len(self.widths)


class DualChannel(TwoWay):
    """A `TwoWay` stack that both channels go through, with the same interaction behind every block."""

    widths: tuple[int, ...] = (1, 3, 5)
    final_norm: bool = False  # the interaction ends with one

    def setup(self):
        super().setup()
        self.interaction = Interaction(self.d_model, self.widths)

    def __call__(self, t_BLD, c_BLD, segment_ids_BL):
        """Returns (t_BLD, c_BLD)."""
        t_BLD, c_BLD = t_BLD.astype(jnp.float32), c_BLD.astype(jnp.float32)
        for layer in self.layers:
            t_BLD, c_BLD = layer(t_BLD, segment_ids_BL), layer(c_BLD, segment_ids_BL)
            t_BLD, c_BLD = self.interaction(t_BLD, c_BLD, segment_ids_BL)
        return t_BLD, c_BLD

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per position by part: every block runs twice."""
        parts = {name: 2 * value for name, value in super().flops(length, ratios).items()}
        interaction = Interaction(self.d_model, self.widths, parent=None)
        return parts | {"interaction": len(self.blocks()) * interaction.flops()}


class FromCharacters(nn.Module):
    """Characters [B, C] -> a vector [B, L, d_model] for each of L tokens: a quarter of it per end and direction."""

    d_model: int
    d_character: int

    def setup(self):
        E, H = self.d_character, self.d_model // 4
        if self.d_model % 4:
            raise UserError(f"A width of {self.d_model} is not four states: first and last character, two directions.")
        self.embedding = parameter(self, "embedding", normal(1.0), (CHARACTERS, E), (None, "embed"))
        self.inputs = parameter(self, "inputs", normal(E**-0.5), (E, 6 * H), ("embed", None))
        self.inputs_bias = parameter(self, "inputs_bias", nn.initializers.zeros, (6 * H,), (None,))
        self.states = parameter(self, "states", normal(H**-0.5), (2 * H, 3 * H), (None, None))
        self.states_bias = parameter(self, "states_bias", nn.initializers.zeros, (2 * H,), (None,))

    def read(self, characters_BC, segment_ids_BC):
        """The GRU's states in both directions, [B, C, d_model / 2]; none passes from one segment to another."""
        (B, C), H = characters_BC.shape, self.d_model // 4
        x = linear(embed(self.embedding, characters_BC), self.inputs).astype(jnp.float32) + self.inputs_bias
        x_NBCGH = jnp.moveaxis(x.reshape(B, C, 2, 3, H), 2, 0)
        start_NBC = jnp.stack([segment_starts(segment_ids_BC), segment_starts(jnp.flip(segment_ids_BC, 1))])
        x_NBCGH = jnp.stack([x_NBCGH[0], jnp.flip(x_NBCGH[1], 1)])
        w_NHGH = self.states.astype(jnp.float32).reshape(2, H, 3, H)
        h_NBCH = gru(x_NBCGH, w_NHGH, self.states_bias.reshape(2, H), start_NBC)
        return jnp.concatenate([h_NBCH[0], jnp.flip(h_NBCH[1], 1)], axis=-1)

    def __call__(self, characters_BC, owner_BC, segment_ids_BL):
        """`owner_BC`: number of the token, from 1, that a character is of, never falling; 0 behind the last character.
        A token without a character has zeros."""
        L = segment_ids_BL.shape[1]
        own_BC = jnp.take_along_axis(segment_ids_BL, jnp.maximum(owner_BC - 1, 0), axis=1)
        h_BCH = self.read(characters_BC, jnp.where(owner_BC > 0, own_BC, 0))
        sorted_BC = jnp.where(owner_BC > 0, owner_BC, L + 1)
        number_L = jnp.arange(1, L + 1)
        first_BL = jax.vmap(lambda o_C: jnp.searchsorted(o_C, number_L))(sorted_BC)
        behind_BL = jax.vmap(lambda o_C: jnp.searchsorted(o_C, number_L, "right"))(sorted_BC)
        at = lambda i_BL: jnp.take_along_axis(h_BCH, i_BL[..., None], axis=1, mode="clip")  # noqa: E731
        ends_BLD = jnp.concatenate([at(first_BL), at(behind_BL - 1)], axis=-1)
        return jnp.where((behind_BL > first_BL)[..., None], ends_BLD, 0.0)

    @nn.nowrap
    def flops(self):
        """Forward FLOPs per character, the embedding counted as `LanguageModel` counts its own."""
        E, H = self.d_character, self.d_model // 4
        return 2 * CHARACTERS * E + 12 * E * H + 12 * H * H


class CharBERT(LanguageModel):
    """Tokens and their characters (`lmlab.data.characters`) -> the token at every position.

    The last id is the mask. Where it stands the token channel is asked, and everywhere else, as for words that were
    misspelt, the character channel; one head serves both.
    """

    d_character: int = 32

    def setup(self):
        super().setup()
        self.characters = FromCharacters(self.backbone.d_model, self.d_character)

    def __call__(self, tokens_BL, segment_ids_BL=None, inputs_BC=None, input_segment_ids_BC=None):
        """`inputs_BC`: characters; `input_segment_ids_BC`: the tokens that they are of, see `FromCharacters`. None: one
        character per token, which is good enough to make parameters."""
        if segment_ids_BL is None:
            segment_ids_BL = jnp.ones_like(tokens_BL)
        if inputs_BC is None:
            inputs_BC = tokens_BL % CHARACTERS
            input_segment_ids_BC = jnp.broadcast_to(jnp.arange(1, tokens_BL.shape[1] + 1), tokens_BL.shape)
        c_BLD = self.characters(inputs_BC, input_segment_ids_BC, segment_ids_BL)
        t_BLD, c_BLD = self.backbone(self.embed_tokens(tokens_BL), c_BLD, segment_ids_BL)
        hidden_BL = tokens_BL == self.vocab_size - 1
        return Output(self._logits(jnp.where(hidden_BL[..., None], t_BLD, c_BLD)), ())

    @nn.nowrap
    def flops(self, length, characters):
        """Forward FLOPs per token by part, in rows of `length` tokens with room for `characters`."""
        parts = super().flops(length)
        per_character = FromCharacters(self.backbone.d_model, self.d_character, parent=None).flops()
        return parts | {"characters": per_character * characters / length}


def charbert(tokenizer, layers, d_model, d_ff, n_heads, d_character):
    """The model for text of `tokenizer`, with words hidden."""
    stack = DualChannel(f"T{layers}", d_model, d_ff, n_heads=n_heads, rotary_dim=d_model // n_heads // 2)
    return CharBERT(tokenizer.vocab_size + 1, stack, d_character=d_character)
