"""T-FREE (Deiseroth et al. 2024, arXiv 2406.19223): words read and written as patterns of hashed trigrams.

A word is the sum of the few rows of a small table that its trigrams turn on, and what is predicted is which rows the next
word turns on, each for itself. So nothing here has the size of a vocabulary; a dictionary is only needed to say which word a
pattern is. It is a collection of variables of its own, not trained and exchanged at will.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmlab.kernels.dispatch import by_positions
from lmlab.kernels.elementwise import linear
from lmlab.models.language_model import LanguageModel, Output
from lmlab.models.layers import normal, parameter


class RowOutput(NamedTuple):
    """What a forward pass without a dictionary returns."""

    logits: jax.Array  # float32 [B, L, rows]: of each row, that the next word turns it on
    stages: tuple

    def nats(self, batch):
        """-log p of each target's pattern, rows taken for independent: [B, L]. Summed over a text, this is the length of a
        code of its patterns, and so no less than what a dictionary that has the words would leave.

        sum over all rows of softplus(l) - sum over those of the target of l.
        """
        on_BLV = multi_hot(batch["target_rows"], self.logits.shape[-1])
        return jnp.sum(jax.nn.softplus(self.logits) - self.logits * on_BLV, axis=-1)


def multi_hot(rows, size, dtype=jnp.float32):
    """Patterns [..., active], -1 behind each, to [..., size]: 1 where a row is on."""
    flat = jnp.where(rows < 0, size, rows).reshape(-1, rows.shape[-1])
    hot = jnp.zeros((len(flat), size + 1), dtype).at[jnp.arange(len(flat))[:, None], flat].set(1)
    return hot[:, :size].reshape(*rows.shape[:-1], size)


def dictionary(table, rows, temperature=1.0):
    """The variables that let a `TFree` read ids and write logits over them: {"dictionary": ..}.

    `table`: the patterns of all ids (`Trigrams.table`). The logits are the sums of the logits of each word's rows, over
    `temperature`: at 1, their softmax is what the independent rows say once it is known that the pattern is a word's.
    """
    patterns = np.zeros((len(table), rows + 1), np.float32)
    np.put_along_axis(patterns, np.where(table < 0, rows, table), 1.0, axis=1)
    return {"dictionary": {"table": jnp.asarray(table), "patterns": jnp.asarray(patterns[:, :rows].T / temperature)}}


class TFree(LanguageModel):
    """Patterns of words [B, L, active] -> `RowOutput`; with a `dictionary` among the variables, ids [B, L] -> `Output`.

    `vocab_size` is that of the ids in which text is stored, and of no parameter.
    """

    rows: int = 8192

    def setup(self):
        D = self.backbone.d_model
        # Tens of rows are added up.
        self.embedding = parameter(self, "embedding", normal(0.1), (self.rows, D), ("vocab", "embed"))
        self.head = parameter(self, "head", normal(0.02), (D, self.rows), ("embed", "vocab"))

    @property
    def _knows_words(self):
        return self.has_variable("dictionary", "table")

    def embed_rows(self, rows):
        """Patterns [..., active] -> [..., D]: the sum of their rows."""
        return linear(multi_hot(rows, self.rows, self.embedding.dtype), self.embedding)

    def embed_tokens(self, tokens):
        """Ids [...] -> [..., D], by the dictionary."""
        return self.embed_rows(self.get_variable("dictionary", "table")[tokens])

    def _logits(self, y):
        logits = linear(y.astype(self.head.dtype), self.head).astype(jnp.float32)
        if not self._knows_words:
            return logits
        return logits @ self.get_variable("dictionary", "patterns").astype(jnp.float32)

    def __call__(self, tokens_BL, segment_ids_BL=None, rows_BLA=None):
        """`rows_BLA`: the patterns of the tokens; None: those of the dictionary."""
        if segment_ids_BL is None:
            segment_ids_BL = jnp.ones_like(tokens_BL)
        if rows_BLA is None and not self._knows_words:
            if not self.is_initializing():
                raise ValueError("T-FREE reads ids only with a dictionary among its variables.")
            rows_BLA = jnp.zeros((*tokens_BL.shape, 1), jnp.int32)
        x_BLD = by_positions(self.embed_tokens(tokens_BL) if rows_BLA is None else self.embed_rows(rows_BLA))
        y_BLD, stages = self.backbone(x_BLD, tokens_BL, segment_ids_BL)
        return (Output if self._knows_words else RowOutput)(self._logits(y_BLD), stages)

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per word by part; embedding and head count 2 d for each row, as a vocabulary's do."""
        io = 2 * self.rows * self.backbone.d_model
        return {"embedding": io, **self.backbone.flops(length, ratios), "head": io}
