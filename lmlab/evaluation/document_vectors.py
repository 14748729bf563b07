"""Vectors of long texts: do they tell documents apart, and kinds of documents, and is more than the mean vector predicted
of what is hidden?"""

import collections
import dataclasses
import hashlib
import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.data.corpora import StandardLibrary
from lmlab.errors import UserError
from lmlab.evaluation.scoring import on_host
from lmlab.kernels.dispatch import compiled_for, mesh_of

EVERY = 7  # of the chunks one is hidden, about the 15% of training


@partial(jax.jit, static_argnums=(0, 1))
def _read(model, mesh, params, batch):
    """(vectors of the chunks, states above them with all seen, vectors predicted of the hidden ones)."""

    def read(model, tokens_BL, segment_ids_BL, hidden_BC):
        _, v_BCD, segment_BC = model.chunks_of(tokens_BL, segment_ids_BL)
        seen, _ = model.read(v_BCD, jnp.zeros_like(hidden_BC, bool), segment_BC)
        return v_BCD, seen, model.read(v_BCD, hidden_BC > 0, segment_BC)[1]

    with compiled_for(mesh, whole_rows=True):
        return model.apply(params, batch["tokens"], batch["segment_ids"], batch["hidden"], method=read)


def _vectors(model, params, data, ids_NL, hidden_NC):
    """float64 [N, C, D] each: vectors of the chunks of these rows, states above them with all seen, and vectors predicted
    of all chunks where those `hidden` are not seen."""
    found = [], [], []
    for first in range(0, len(ids_NL), data.batch_size):
        data.check()
        rows = np.arange(first, first + data.batch_size)
        real, rows = rows < len(ids_NL), np.minimum(rows, len(ids_NL) - 1)
        tokens_BL = ids_NL[rows]
        batch = {"tokens": tokens_BL, "segment_ids": np.ones_like(tokens_BL), "hidden": np.int32(hidden_NC[rows])}
        for of_rows, x in zip(found, _read(model, mesh_of(params), params, data.place(batch)), strict=True):
            of_rows.append(on_host(x)[real].astype(np.float64))
    return [np.concatenate(x) for x in found]


def _alike(model, v_NCD, seen_NCD, ids_NL, label_N):
    """{"": `nearest_is_alike` by the mean of the upper transformer's states, "/mean_pooling": by that of the vectors it
    reads, "/tokens": by the counts of the tokens, "/chance"}."""
    counts = np.stack([np.bincount(row, minlength=model.vocab_size) for row in ids_NL]).astype(np.float64)
    return {
        "": nearest_is_alike(seen_NCD.mean(axis=1), label_N),
        "/mean_pooling": nearest_is_alike(v_NCD.mean(axis=1), label_N),
        "/tokens": nearest_is_alike(counts, label_N),
        "/chance": alike_by_chance(label_N),
    }


def nearest_is_alike(x_ND, document_N):
    """% of the rows whose nearest other row, by the cosine of what they are beyond the mean row, is of the same
    document, or of whatever the rows are numbered by."""
    x_ND = x_ND - x_ND.mean(axis=0)
    x_ND = x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-9)
    cosine_NN = x_ND @ x_ND.T
    np.fill_diagonal(cosine_NN, -np.inf)
    return 100 * float(np.mean(document_N[cosine_NN.argmax(axis=1)] == document_N))


def alike_by_chance(document_N):
    """% of the rows of which a drawn other row is of the same document, expected."""
    _, sizes = np.unique(document_N, return_counts=True)
    return 100 * float(np.sum(sizes * (sizes - 1)) / (len(document_N) * (len(document_N) - 1)))


def require_pairs(document_N, split, size):
    """UserError unless rows that have another of the same document are of two documents. `size`: of a row, in words."""
    if len(set(document_N)) < 2:
        raise UserError(f"No two {split} documents have two pieces of {size} to find one another.")


def explained(v_ND, predicted_ND, mean_D):
    """Share of the variance of v around the mean that a prediction explains: 0 for the mean itself, 1 for v."""
    return 1 - float(np.sum((v_ND - predicted_ND) ** 2) / np.sum((v_ND - mean_D) ** 2))


@dataclasses.dataclass(frozen=True)
class DocumentVectors:
    """Of a `NextLevel` model, on clean pieces of `chunks` chunks each: the first `pieces` of every document of a split
    that has two of them."""

    split: str = "test"
    chunks: int = 16
    pieces: int = 4

    def __call__(self, model, params, data):
        """Retrieval, % of the pieces whose nearest other piece is of the same document: {"same_document": by the mean
        of the upper transformer's states, "same_document/mean_pooling": by that of the chunks' vectors it reads,
        "same_document/tokens": by the counts of the tokens, "same_document/chance"}. Prediction of hidden vectors:
        {"explained": share of their variance, "explained/neighbours": by the mean of the seen chunks of the same piece,
        "spread": variance of the predictions over that of the vectors, 0 where all are the mean}. UserError for a split
        in which no two documents have two pieces.
        """
        ids_NL, document_N = self._pieces(data.baked, model.chunk)
        hidden_NC = (np.arange(self.chunks) + np.arange(len(ids_NL))[:, None]) % EVERY == 0
        v, seen, predicted = _vectors(model, params, data, ids_NL, hidden_NC)
        near = np.where(hidden_NC[..., None], 0, v).sum(axis=1, keepdims=True) / (~hidden_NC).sum(axis=1)[:, None, None]
        target, mean = v[hidden_NC], v.mean(axis=(0, 1))
        alike = _alike(model, v, seen, ids_NL, document_N)
        return {f"same_document{name}": value for name, value in alike.items()} | {
            "explained": explained(target, predicted[hidden_NC], mean),
            "explained/neighbours": explained(target, np.broadcast_to(near, v.shape)[hidden_NC], mean),
            "spread": float(predicted[hidden_NC].var(axis=0).sum() / target.var(axis=0).sum()),
        }

    def _pieces(self, baked, chunk):
        """(ids int32 [N, chunks * chunk], number of the document [N])."""
        size, found = self.chunks * chunk, []
        for number, document in enumerate(baked.documents(self.split)):
            ids = baked.tokenizer.encode(document)
            count = min(self.pieces, len(ids) // size)
            if count > 1:
                found += [(ids[i * size : (i + 1) * size], number) for i in range(count)]
        document_N = np.array([number for _, number in found])
        require_pairs(document_N, self.split, f"{size} tokens")
        return np.stack([ids for ids, _ in found]).astype(np.int32), document_N


@dataclasses.dataclass(frozen=True)
class DocumentClasses:
    """Of a `NextLevel` model: the kinds of documents, which are the folders of `corpus` that hold `fewest` documents of
    `chunks` chunks or more. Nothing is fitted: a document is put where the one nearest to it is. Of its first `chunks`
    chunks, and of `most` documents a folder. The model may have been trained on them, but was told of no folder."""

    corpus: Any = StandardLibrary()
    chunks: int = 32
    fewest: int = 15
    most: int = 40
    split: str = "test"  # as every evaluator's: a split of the model's own text

    def check(self, run):
        """UserError unless there are two such folders, as far as bytes tell."""
        self._require_two(self._folders(self.chunks * run.model.chunk))

    def __call__(self, model, params, data):
        """% of the documents whose nearest other document lies in the same folder: {"class": by the mean of the upper
        transformer's states, "class/mean_pooling": by that of the chunks' vectors it reads, "class/tokens": by the counts
        of the tokens, "class/chance"}. UserError as `check`."""
        size = self.chunks * model.chunk
        encoded = {
            folder: [ids[:size] for ids in data.baked.tokenizer.encode_batch(texts) if len(ids) >= size][: self.most]
            for folder, texts in self._folders(size).items()
        }
        encoded = {folder: rows for folder, rows in encoded.items() if len(rows) >= self.fewest}
        self._require_two(encoded)
        ids_NL = np.concatenate([np.stack(rows) for rows in encoded.values()]).astype(np.int32)
        folder_N = np.repeat(np.arange(len(encoded)), [len(rows) for rows in encoded.values()])
        v, seen, _ = _vectors(model, params, data, ids_NL, np.zeros((len(ids_NL), self.chunks), bool))
        alike = _alike(model, v, seen, ids_NL, folder_N)
        return {f"class{name}": value for name, value in alike.items()}

    def _folders(self, size):
        """{folder: texts of at least `size` bytes}, of folders that hold enough; in an order given by the texts."""
        folders = collections.defaultdict(list)
        for document in self.corpus.documents():
            if (folder := os.path.dirname(document.name)) and len(document.data) >= size:
                folders[folder].append(document.data)
        by_content = lambda text: hashlib.sha256(text).digest()  # noqa: E731
        return {f: sorted(found, key=by_content) for f, found in sorted(folders.items()) if len(found) >= self.fewest}

    def _require_two(self, folders):
        if len(folders) < 2:
            raise UserError(f"Kinds of documents are folders: no two of this corpus hold {self.fewest} long documents each.")
