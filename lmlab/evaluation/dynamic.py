"""Models that read tokens which are in no vocabulary: texts merged batch by batch (see lmlab/text/dynamic.py)."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError
from lmlab.evaluation.document_vectors import alike_by_chance, nearest_is_alike, require_pairs
from lmlab.evaluation.scoring import on_host
from lmlab.kernels.dispatch import compiled_for, mesh_of
from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.models.hypernetwork import Retokenized, predicted
from lmlab.models.language_model import LanguageModel
from lmlab.models.transfer import mean_of_pieces
from lmlab.text.dynamic import merge, words_of
from lmlab.text.sampled import pieces_of

PADDING = 1024  # rows are added in multiples, so that few programs are compiled


class Extended:
    """A plain model, or the base of a `Retokenized`, that can get rows for further tokens: those that the hypernetwork
    predicts, or without one the mean of the rows of their pieces (FVT)."""

    def __init__(self, model, params, tokenizer):
        if not isinstance(model, Retokenized) and type(model) is not LanguageModel:
            raise UserError("Further tokens are for plain language models of tokens, and for hypernetworks of these.")
        self.tokenizer, self._mesh, self._hypernetwork = tokenizer, mesh_of(params), None
        self.base, known = (model, params["params"]) if type(model) is LanguageModel else (
            model.base, params["frozen"]["model"]
        )
        tables = {name: on_host(known[name]) for name in (("embedding",) if self.base.tied else ("embedding", "head"))}
        if isinstance(model, Retokenized):  # with what it reads of the base, on each process' own device
            own = jax.tree.map(lambda x: jnp.asarray(on_host(x)), params["params"])
            self._hypernetwork = model, {"params": own, "frozen": {"model": jax.tree.map(jnp.asarray, tables)}}
        self._known, self._tables = known, [t.T if name == "head" else t for name, t in tables.items()]
        self.size = tokenizer.vocab_size
        self.id_of = {tokenizer.token_bytes(i): i for i in reversed(range(self.size)) if tokenizer.token_bytes(i)}

    def rows(self, tokens):
        """[N, D] for each table of the model."""
        if self._hypernetwork:
            model, params = self._hypernetwork
            return predicted(model, params, pieces_of(self.tokenizer, tokens, model.hypernetwork.pieces))
        pieces = self.tokenizer.encode_batch(tokens)
        return [mean_of_pieces(table[: self.size], pieces) for table in self._tables]

    def truncated(self, tokens):
        """How many of them are written in more pieces than the hypernetwork reads; means are of all pieces."""
        if not self._hypernetwork:
            return 0
        most = self._hypernetwork[0].hypernetwork.pieces
        return sum(len(pieces) > most for pieces in self.tokenizer.encode_batch(tokens))

    def encode(self, texts):
        """Ids of texts that are lists of tokens (bytes), those that the vocabulary lacks numbered from its size on:
        ([ids of a text], [further tokens])."""
        fresh = {}

        def number(token):
            known = self.id_of.get(token)
            return self.size + fresh.setdefault(token, len(fresh)) if known is None else known

        return [[number(token) for token in text] for text in texts], list(fresh)

    def with_rows(self, tokens):
        """(model of a larger vocabulary, its variables). Ids above the tokens have rows of 0."""
        count = -(-max(1, len(tokens)) // PADDING) * PADDING
        made = self.rows(tokens) if tokens else [np.zeros((0, t.shape[1])) for t in self._tables]
        whole = []
        for table, rows in zip(self._tables, made, strict=True):
            added = np.zeros((count, table.shape[1]), table.dtype)
            added[: len(rows)] = rows
            whole.append(np.concatenate([table[: self.size], added]))
        params = {**self._known, "embedding": whole[0]} | ({} if self.base.tied else {"head": whole[1].T})
        return self.base.clone(vocab_size=self.size + count), {"params": params}

    def read(self, model, params, tokens_BL, targets_BL, known):
        """(states [B, L, D], nats [B, L]) of a softmax over the first `known` ids, as NumPy arrays."""
        states, nats = _read(model, self._mesh, known, params, jnp.asarray(tokens_BL), jnp.asarray(targets_BL))
        return on_host(states).astype(np.float32), on_host(nats)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _read(model, mesh, known, params, tokens_BL, targets_BL):
    def read(module, tokens_BL):
        states_BLD, _ = module.backbone(module.embed_tokens(tokens_BL), tokens_BL, jnp.ones_like(tokens_BL))
        return states_BLD, module._logits(states_BLD)[..., :known]

    with compiled_for(mesh, whole_rows=True):
        states_BLD, logits_BLV = model.apply(params, tokens_BL, method=read)
    return states_BLD, softmax_cross_entropy(logits_BLV, targets_BL)


def padded_rows(sequences, length):
    """Sequences, each at most `length` + 1 long, as (tokens, targets) [B, length], 0 behind."""
    table = np.zeros((len(sequences), length + 1), np.int32)
    for row, ids in zip(table, sequences, strict=True):
        row[: len(ids)] = ids
    return table[:, :-1], table[:, 1:]


def excerpts(baked, split, size, per_document, most, least=1):
    """(up to `most` pieces of whole characters of `size` bytes, number of the document of each), from documents that
    give `least` of them or more."""
    found = []
    for number, document in enumerate(baked.documents(split)):
        if most - len(found) < least:
            break
        count = min(per_document, len(document) // size, most - len(found))
        cuts = [document[i * size : (i + 1) * size] for i in range(count if count >= least else 0)]
        found += [(cut.decode("utf-8", "ignore").encode() or cut, number) for cut in cuts]
    if not found and least == 1:
        raise UserError(f"No {split} document has {size} bytes to read.")
    return [text for text, _ in found], np.array([number for _, number in found])


@dataclasses.dataclass(frozen=True)
class DynamicTokens:
    """Texts merged batch by batch, by `shares` (in %) of what can be merged within words, and read as they are: nothing
    is trained for it.

    As a prompt: the first half of a piece is merged; the second is predicted in the model's own tokens. As a text to
    encode: a piece is merged whole, and is the mean of the states above it; its nearest other piece should be of the
    same document. Only documents of two pieces or more are read.
    """

    shares: tuple[int, ...] = (0, 20, 40, 60, 80, 100)
    split: str = "test"
    batch: int = 32  # pieces that are merged together
    size: int = 512  # bytes of a piece
    per_document: int = 4
    pieces: int = 128

    def __post_init__(self):
        if self.per_document < 2:
            raise UserError(f"Pieces find one another where a document has two or more, not {self.per_document}.")

    def __call__(self, model, params, data):
        """By share: {"prefix/<share>": bits per byte of the second halves; "match/<share>": % of pieces whose nearest
        is of the same document; "shorter/<share>": % of the pieces' tokens that are gone; "merges/<share>": of a
        batch; "truncated/<share>": % of the further tokens that a hypernetwork reads in part}; {"match_chance"}.
        UserError for a split in which no two documents have two pieces."""
        reader = Extended(model, params, data.baked.tokenizer)
        texts, document = excerpts(data.baked, self.split, self.size, self.per_document, self.pieces, least=2)
        require_pairs(document, self.split, f"{self.size} bytes")
        words = [words_of(reader.tokenizer, text) for text in texts]
        length = -(-max(sum(map(len, of)) for of in words) // 32) * 32
        result = {"match_chance": alike_by_chance(document)}
        for share in self.shares:
            nats = covered = before = after = merges = batches = 0
            vectors, further = [], []
            for first in range(0, len(words), self.batch):
                data.check()
                part = words[first : first + self.batch]
                n, size, of_prompts = self._prompted(reader, part, share / 100, length)
                whole = merge(part, share / 100)
                states, of_texts = self._encoded(reader, whole.texts, length)
                vectors.append(states)
                further += of_prompts + of_texts
                nats, covered, batches = nats + n, covered + size, batches + 1
                before, after, merges = before + whole.before, after + whole.tokens, merges + whole.merges
            result |= {
                f"prefix/{share}": nats / (math.log(2) * covered),
                f"match/{share}": nearest_is_alike(np.concatenate(vectors).astype(np.float64), document),
                f"shorter/{share}": 100 * (1 - after / before),
                f"merges/{share}": merges / batches,
            }
            if further:
                result[f"truncated/{share}"] = 100 * reader.truncated(further) / len(further)
        return result

    def _padded(self, sequences):
        return sequences + [sequences[0]] * (self.batch - len(sequences))

    def _prompted(self, reader, words, share, length):
        """(nats, bytes) of the second halves behind merged first ones, and the further tokens in these."""
        prompts = merge([of[: len(of) // 2] for of in words], share).texts
        rest = [[token for word in of[len(of) // 2 :] for token in word] for of in words]
        ids, fresh = reader.encode([p + r for p, r in zip(prompts, rest, strict=True)])
        sequences = [[reader.tokenizer.bos, *row] for row in ids]
        tokens, targets = padded_rows(self._padded(sequences), length)
        at = np.arange(length)[None] - np.array([len(p) for p in prompts])[:, None]
        scored = (at >= 0) & (at < np.array([len(r) for r in rest])[:, None])
        grown, variables = reader.with_rows(fresh)
        _, nats = reader.read(grown, variables, tokens, np.minimum(targets, reader.size - 1), reader.size)
        scored_nats = np.sum(nats[: len(words)] * scored, dtype=np.float64)
        return float(scored_nats), sum(len(token) for row in rest for token in row), fresh

    def _encoded(self, reader, texts, length):
        """([B, D], further tokens)."""
        ids, fresh = reader.encode(texts)
        tokens, targets = padded_rows(self._padded([[reader.tokenizer.bos, *row] for row in ids]), length + 1)
        grown, variables = reader.with_rows(fresh)
        states, _ = reader.read(grown, variables, tokens, np.zeros_like(targets), 1)
        return np.stack([states[row, 1 : len(of) + 1].mean(axis=0) for row, of in enumerate(ids)]), fresh
