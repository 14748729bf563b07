"""A frozen language model under any tokenizer: a hypernetwork predicts the rows of its tokens from the old tokens that
write them (ZeTT, Minixhofer et al. 2024, "Zero-Shot Tokenizer Transfer")."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError
from lmlab.kernels.elementwise import embed, linear
from lmlab.models.language_model import LanguageModel
from lmlab.models.layers import normal, parameter
from lmlab.text.sampled import vocabulary_of

AT_ONCE = 4096  # tokens whose rows are predicted together


class Hypernetwork(nn.Module):
    """Old rows of up to `pieces` tokens -> a new row: their mean (FVT), and a correction from a small network that sees
    all of them.

    The correction starts at 0. The authors' network has no such shortcut, and learns it in its first stage; its blocks
    are post-norm, where those of `body`, a `TwoWay`, are pre-norm.
    """

    body: nn.Module
    pieces: int = 7

    @nn.compact
    def __call__(self, x_NPE, there_NP):
        """[N, P, E], bool [N, P] (no hole before a piece) -> [N, E] float32; 0 for a token without pieces."""
        E, D = x_NPE.shape[-1], self.body.d_model
        wi = parameter(self, "wi", normal(E**-0.5), (E, D), ("embed", "inner"))
        wo = parameter(self, "wo", nn.initializers.zeros, (D, E), ("inner", "embed"))
        there_NP = there_NP.astype(jnp.int32)
        y_NPD, _ = self.body(linear(x_NPE.astype(wi.dtype), wi), there_NP, there_NP)
        count_N1 = jnp.maximum(jnp.sum(there_NP, axis=1, keepdims=True), 1)
        mean = lambda v: jnp.sum(v.astype(jnp.float32) * there_NP[..., None], axis=1) / count_N1  # noqa: E731
        return mean(x_NPE) + linear(mean(y_NPD).astype(wo.dtype), wo).astype(jnp.float32)

    @nn.nowrap
    def flops(self, width):
        """Forward FLOPs per token for rows of `width` numbers."""
        return self.pieces * (2 * width * self.body.d_model + sum(self.body.flops(self.pieces).values())) + (
            2 * width * self.body.d_model
        )


class Retokenized(nn.Module):
    """`base` with its embedding and head replaced, batch by batch, by rows that `hypernetwork` predicts.

    The base's own variables lie in the collection "frozen", out of the reach of gradients and of weight decay. The
    rows of input and output are predicted together, and in units of their root mean square. BOS and EOS, the last two
    ids, keep theirs. `vocab_size`: ids of the tokenizers that it is trained with.
    """

    vocab_size: int
    base: LanguageModel
    hypernetwork: Hypernetwork

    def setup(self):
        plain = self.base.clone(parent=None)
        made = lambda: plain.init(self.make_rng("params"), jnp.zeros((1, 8), jnp.int32))["params"]  # noqa: E731
        self.frozen = self.variable("frozen", "model", made)

    def _known(self):
        """(the base's parameters, its tables as [V, D])."""
        known = jax.lax.stop_gradient(self.frozen.value)
        return known, [known["embedding"]] + ([] if self.base.tied else [known["head"].T])

    def rows(self, pieces_NP):
        """Ids of old tokens, -1 behind them -> rows [N, D] of each table, in units of its root mean square, with that:
        [(rows, scale)]."""
        _, tables = self._known()
        there_NP, at_NP = pieces_NP >= 0, jnp.maximum(pieces_NP, 0)
        scales = [_scale(table) for table in tables]
        x_NPE = jnp.concatenate(
            [embed(table, at_NP).astype(jnp.float32) / s for table, s in zip(tables, scales, strict=True)], axis=-1
        )
        made = self.hypernetwork(x_NPE, there_NP)
        return list(zip(jnp.split(made, len(tables), axis=-1), scales, strict=True))

    def distance(self, pieces_NP, of_N):
        """Mean squared distance of the rows predicted from pieces from those of the old tokens `of_N`, over the tables'
        mean squares."""
        _, tables = self._known()
        apart = [
            jnp.mean(jnp.square(made - embed(table, of_N).astype(jnp.float32) / scale))
            for (made, scale), table in zip(self.rows(pieces_NP), tables, strict=True)
        ]
        return sum(apart) / len(apart)

    def __call__(self, tokens_BL, segment_ids_BL=None, pieces_BNP=None):
        """`pieces_BNP`: how the old tokenizer writes the tokens of the batch's, each row of the batch holding a part of
        the vocabulary, in order."""
        if pieces_BNP is None:
            if not self.is_initializing():
                raise UserError("A hypernetwork has no tokenizer of its own: `lmlab transfer` gives its base one.")
            pieces_BNP = jnp.zeros((1, self.vocab_size, 1), jnp.int32)
        pieces_NP = pieces_BNP.reshape(-1, pieces_BNP.shape[-1])
        if len(pieces_NP) != self.vocab_size:
            raise UserError(
                f"A batch tells of {len(pieces_NP)} tokens, not of {self.vocab_size}: its corruption's `rows` must be "
                "the run's batch_size, and no step can be accumulated."
            )
        known, tables = self._known()
        made = []
        for (rows_ND, scale), table in zip(self.rows(pieces_NP), tables, strict=True):
            kept_2D = embed(table, pieces_NP[-2:, 0]).astype(jnp.float32)
            made.append(jnp.concatenate([rows_ND[:-2] * scale, kept_2D]).astype(table.dtype))
        params = {**known, "embedding": made[0]} | ({} if self.base.tied else {"head": made[1].T})
        plain = self.base.clone(parent=None, vocab_size=self.vocab_size)
        return plain.apply({"params": params}, tokens_BL, segment_ids_BL)

    @nn.nowrap
    def flops(self, length, ratios=()):
        """Forward FLOPs per token by part, of the base under the new tokenizer. `hypernetwork_flops` are a batch's."""
        return self.base.clone(vocab_size=self.vocab_size).flops(length, ratios)

    @nn.nowrap
    def hypernetwork_flops(self):
        """Forward FLOPs of predicting a vocabulary once."""
        return self.vocab_size * self.hypernetwork.flops(self.base.backbone.d_model * (1 if self.base.tied else 2))


def _scale(table_VD):
    return jnp.sqrt(jnp.mean(jnp.square(table_VD.astype(jnp.float32))) + 1e-12)


@functools.partial(jax.jit, static_argnums=0)
def _predict(model, variables, pieces_NP):
    return [rows * scale for rows, scale in model.apply(variables, pieces_NP, method="rows")]


def predicted(model, variables, pieces_NP):
    """Rows of tokens from their pieces: NumPy arrays [N, D], one for each table of the base."""
    parts = []
    for first in range(0, len(pieces_NP), AT_ONCE):
        part = np.asarray(pieces_NP[first : first + AT_ONCE])
        size = AT_ONCE if len(pieces_NP) > AT_ONCE else -(-len(part) // 256) * 256  # few shapes, few programs
        padded = np.pad(part, ((0, size - len(part)), (0, 0)), constant_values=-1)
        parts.append([np.asarray(rows)[: len(part)] for rows in _predict(model, variables, padded)])
    return [np.concatenate(rows) for rows in zip(*parts, strict=True)]


def retokenized(model, variables, old, new, fresh=None):
    """Variables of the base of `model`, a `Retokenized`, under the tokenizer `new`: all rows are predicted but those
    of BOS and EOS. Rows have the dtypes of the old. `fresh`: parameters whose rows stand for ids above the
    tokenizer's."""
    known = variables["frozen"]["model"]
    made = predicted(model, variables, vocabulary_of(old, new, model.hypernetwork.pieces))
    result = dict(known)
    for name, rows_ND in zip(("embedding", "head"), made, strict=False):
        turned = (lambda x: x.T) if name == "head" else (lambda x: x)
        table = turned(np.asarray(known[name]))
        rows_ND[[new.bos, new.eos]] = table[[old.bos, old.eos]]
        whole = rows_ND if fresh is None else np.array(turned(np.asarray(fresh[name])))
        if len(whole) < len(rows_ND):
            raise UserError(f"The new tokenizer has {len(rows_ND)} ids but the model only {len(whole)}.")
        whole[: len(rows_ND)] = rows_ND
        result[name] = np.ascontiguousarray(turned(whole.astype(table.dtype)))
    return {"params": result}
