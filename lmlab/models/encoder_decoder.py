"""Encoder-decoder models: an encoder reads a source from both sides, a causal decoder writes the target (T5)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmlab.kernels.elementwise import embed, linear
from lmlab.models.cache import put
from lmlab.models.layers import RMSNorm, normal, parameter
from lmlab.models.t5 import EPS, DecoderBlock, EncoderBlock, GatedGELU, RelativeBias, T5Attention, same_segment


class Encoded(NamedTuple):
    """A source as its encoder leaves it, in as many states as the encoder likes."""

    states_BSD: jax.Array
    segment_ids_BS: jax.Array  # int32, 0 where there is no state
    key_bias_BS: jax.Array | None = None  # float32, added to the scores of whoever attends to a state
    found: Any = None  # what this encoder decided on its way, for losses and metrics; each has a type of its own

    def bias(self):
        """The key bias as [B, 1, 1, S]."""
        return jnp.zeros((1, 1, 1, 1)) if self.key_bias_BS is None else self.key_bias_BS[:, None, None]


class Output(NamedTuple):
    """What a forward pass returns: as `language_model.Output`, and what the decoder read."""

    logits: jax.Array  # float32 [B, L, V]: next-token logits at every position of the target
    encoded: Encoded
    stages: tuple = ()


class Encoder(nn.Module):
    """T5's encoder: `layers` blocks in which positions see all of their segment, and a final norm."""

    layers: int
    d_model: int
    d_ff: int
    n_heads: int
    d_kv: int = 64
    buckets: int = 32
    max_distance: int = 128
    null: bool = False  # softmax_1 in every attention
    remat: bool = False

    def setup(self):
        block = nn.remat(EncoderBlock) if self.remat else EncoderBlock
        shape = (self.d_model, self.d_ff, self.n_heads, self.d_kv, self.null)
        self.blocks = [block(*shape) for _ in range(self.layers)]
        self.relative = RelativeBias(self.n_heads, True, self.buckets, self.max_distance)
        self.norm = RMSNorm(self.d_model, EPS)

    def __call__(self, x_BSD, tokens_BS, segment_ids_BS):
        """`Encoded` of embedded tokens; this encoder does not look at the tokens themselves."""
        x_BSD, S = x_BSD.astype(jnp.float32), x_BSD.shape[1]
        bias, seen = self.relative(S, S), same_segment(segment_ids_BS, segment_ids_BS)
        for block in self.blocks:
            x_BSD = block(x_BSD, bias, seen)
        return Encoded(self.norm(x_BSD), segment_ids_BS)

    @property
    def d_source(self):
        """Width of the embedding that it reads, for FLOPs."""
        return self.d_model

    @nn.nowrap
    def block_flops(self, positions):
        """Forward FLOPs of one block over a row."""
        attention = T5Attention(self.d_model, self.n_heads, self.d_kv, parent=None)
        mlp = GatedGELU(self.d_model, self.d_ff, parent=None)
        return attention.flops(positions, positions) + mlp.flops() * positions

    @nn.nowrap
    def flops(self, positions, ratios=()):
        """(forward FLOPs of a row of so many positions by part, states per row). `ratios`: positions per state, where
        an encoder shortens and it was measured."""
        return {"layers": self.layers * self.block_flops(positions)}, positions


class Decoder(nn.Module):
    """T5's decoder: `layers` blocks of causal self-attention, cross-attention and MLP, and a final norm."""

    layers: int
    d_model: int
    d_ff: int
    n_heads: int
    d_kv: int = 64
    buckets: int = 32
    max_distance: int = 128
    null: bool = False
    remat: bool = False

    def setup(self):
        block = nn.remat(DecoderBlock) if self.remat else DecoderBlock
        shape = (self.d_model, self.d_ff, self.n_heads, self.d_kv, self.null)
        self.blocks = [block(*shape) for _ in range(self.layers)]
        self.relative = RelativeBias(self.n_heads, False, self.buckets, self.max_distance)
        self.norm = RMSNorm(self.d_model, EPS)

    def __call__(self, x_BLD, segment_ids_BL, encoded):
        """[B, L, D] -> [B, L, D]; a target sees the source whose segment id it carries."""
        x_BLD, L = x_BLD.astype(jnp.float32), x_BLD.shape[1]
        seen = same_segment(segment_ids_BL, segment_ids_BL) & jnp.tril(jnp.ones((L, L), bool))
        cross_seen = same_segment(segment_ids_BL, encoded.segment_ids_BS)
        bias, gate = self.relative(L, L), encoded.bias()
        for block in self.blocks:
            memory = block.memory(encoded.states_BSD)
            x_BLD = block(x_BLD, memory, bias, seen, gate, cross_seen)
        return self.norm(x_BLD)

    def init_cache(self, encoded, length):
        """Cache of rows that are about to write up to `length` tokens from one source each."""
        B = len(encoded.states_BSD)
        memory = [block.memory(encoded.states_BSD) for block in self.blocks]
        empty = jnp.zeros((B, length, self.n_heads, self.d_kv), memory[0][0].dtype)
        return {
            "written": [(empty, empty) for _ in self.blocks],
            "memory": memory,
            "bias": jnp.broadcast_to(encoded.bias(), (B, 1, 1, encoded.states_BSD.shape[1])),
            "seen": encoded.segment_ids_BS > 0,
            "index": jnp.zeros(B, jnp.int32),
        }

    def step(self, x_BD, cache, active_B):
        """One position for the active rows: (y_BD, cache)."""
        x_BD, index_B = x_BD.astype(jnp.float32), cache["index"]
        keys_1M = jnp.arange(cache["written"][0][0].shape[1])[None]
        bias, written = self.relative.at(index_B[:, None], keys_1M), []
        for block, memory, old in zip(self.blocks, cache["memory"], cache["written"], strict=True):
            x_BD, new = block.step(x_BD, memory, old, index_B, bias, cache["bias"], cache["seen"][:, None])
            written.append(new)
        changed = {"written": written, "index": index_B + 1}
        return self.norm(x_BD), cache | put({k: cache[k] for k in changed}, changed, active_B, None)

    @nn.nowrap
    def flops(self, positions, states):
        """Forward FLOPs of a row by part: its own keys, and `states` of the encoder."""
        attention = T5Attention(self.d_model, self.n_heads, self.d_kv, parent=None)
        mlp = GatedGELU(self.d_model, self.d_ff, parent=None)
        return {
            "attention": self.layers * attention.flops(positions, positions),
            "cross": self.layers * attention.flops(positions, states),
            "mlp": self.layers * mlp.flops() * positions,
        }


class EncoderDecoder(nn.Module):
    """Source and target tokens -> next-token logits of the target. The two share an embedding; the head is its own.

    `encoder`: (x_BSD, tokens_BS, segment_ids_BS) -> `Encoded`, such as `Encoder`, whose width is the decoder's.
    """

    vocab_size: int
    encoder: nn.Module
    decoder: Decoder

    def setup(self):
        shape = (self.vocab_size, self.decoder.d_model)
        self.embedding = parameter(self, "embedding", normal(1.0), shape, ("vocab", "embed"))
        self.head = parameter(self, "head", normal(shape[1] ** -0.5), shape[::-1], ("embed", "vocab"))

    def embed_tokens(self, tokens):
        """[...] -> [..., D]; a negative id stands for nothing, and is embedded as zero."""
        x = embed(self.embedding, jnp.maximum(tokens, 0))
        return jnp.where(tokens[..., None] < 0, 0, x)

    def embed_source(self, tokens):
        """The same of the source."""
        return self.embed_tokens(tokens)

    def _logits(self, y):
        return linear(y.astype(self.head.dtype), self.head).astype(jnp.float32)

    def __call__(self, tokens_BL, segment_ids_BL=None, inputs_BS=None, input_segment_ids_BS=None):
        """`tokens_BL`: the target behind its start token; `inputs_BS`: the source, None: the target itself, which is
        good enough to make parameters. Segment ids number the examples of a row from 1, 0 is padding; None: one each."""
        if inputs_BS is None:
            inputs_BS, input_segment_ids_BS = tokens_BL, segment_ids_BL
        if segment_ids_BL is None:
            segment_ids_BL = jnp.ones_like(tokens_BL)
        encoded = self.encode(inputs_BS, input_segment_ids_BS)
        y_BLD = self.decoder(self.embed_tokens(tokens_BL), segment_ids_BL, encoded)
        return Output(self._logits(y_BLD), encoded)

    def encode(self, inputs_BS, segment_ids_BS=None):
        """`Encoded`."""
        if segment_ids_BS is None:
            segment_ids_BS = jnp.ones_like(inputs_BS)
        return self.encoder(self.embed_source(inputs_BS), inputs_BS, segment_ids_BS)

    def read(self, inputs_BS, valid_BS, length):
        """Cache of rows that have read right-padded sources, and will write up to `length` tokens."""
        return self.decoder.init_cache(self.encode(inputs_BS, valid_BS.astype(jnp.int32)), length)

    def step(self, tokens_B, cache, active_B=None):
        """One token of the target for the active rows (None: all): (logits_BV, cache)."""
        tokens_B = jnp.asarray(tokens_B)
        if active_B is None:
            active_B = jnp.ones(tokens_B.shape, bool)
        y_BD, cache = self.decoder.step(self.embed_tokens(tokens_B), cache, active_B)
        return self._logits(y_BD), cache

    @nn.nowrap
    def flops(self, source, target, ratios=()):
        """Forward FLOPs of a row of `source` and `target` tokens by part. Embedding and head count 2 V d a token, as in
        `LanguageModel`, that of the source by the width that the encoder reads."""
        io = 2 * self.vocab_size * self.decoder.d_model
        parts, states = self.encoder.flops(source, ratios)
        return {
            "embedding": 2 * self.vocab_size * self.encoder.d_source * source + io * target,
            **{f"encoder/{k}": v for k, v in parts.items()},
            **{f"decoder/{k}": v for k, v in self.decoder.flops(target, states).items()},
            "head": io * target,
        }

    @nn.nowrap
    def rematerialised(self):
        """The same model whose blocks are computed again backward."""
        return self.clone(encoder=self.encoder.clone(remat=True), decoder=self.decoder.clone(remat=True))


def t5(vocab_size, layers, d_model, d_ff, n_heads, d_kv=64, null=False, encoder=Encoder, **parts):
    """T5 v1.1 of (encoder, decoder) layers; `encoder`: the class of the encoder, `parts`: further fields of it."""
    shape = dict(d_model=d_model, d_ff=d_ff, n_heads=n_heads, d_kv=d_kv, null=null)
    return EncoderDecoder(vocab_size, encoder(layers=layers[0], **shape, **parts), Decoder(layers[1], **shape))
