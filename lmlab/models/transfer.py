"""Embeddings for a new vocabulary from those for an old one, without training.

Each function takes the old rows [V, D] and two tokenizers (see lmlab/text), and gives the new rows [V', D]. A token
that both have, byte for byte, keeps its row, as do BOS and EOS.
"""

import functools

import numpy as np

from lmlab.errors import UserError

GRAMS, BUCKETS = (1, 2, 3, 4), 512
AT_ONCE = 256  # tokens that `pursuit` codes together


def shared(old, new):
    """Ids of the tokens that both have: (of the new, of the old), int64 [n] each, ascending in the new."""
    ids = {old.token_bytes(i): i for i in reversed(range(old.vocab_size)) if old.token_bytes(i)}
    pairs = {new.bos: old.bos, new.eos: old.eos}
    for i in range(new.vocab_size):
        if i not in pairs and (found := ids.get(new.token_bytes(i))) not in (None, old.bos, old.eos):
            pairs[i] = found
    pairs = dict(sorted(pairs.items()))
    return np.array(list(pairs), np.int64), np.array(list(pairs.values()), np.int64)


def _kept(embedding_VD, old, new, fill):
    """The shared rows in their places, `fill` [V', D] elsewhere."""
    result = np.array(np.broadcast_to(fill, (new.vocab_size, embedding_VD.shape[1])), np.float64)
    to, source = shared(old, new)
    result[to] = embedding_VD[source]
    return result.astype(embedding_VD.dtype)


def _mean(embedding_VD, old):
    return np.mean(embedding_VD[: old.vocab_size], axis=0, dtype=np.float64)


def zero(embedding_VD, old, new):
    """0 for every new token."""
    return _kept(embedding_VD, old, new, np.zeros(embedding_VD.shape[1]))


def mean(embedding_VD, old, new):
    """The mean of all old rows for every new token."""
    return _kept(embedding_VD, old, new, _mean(embedding_VD, old))


def random(embedding_VD, old, new, seed=0):
    """Normal numbers for every new token, with the mean and standard deviation of the old rows in each channel. `seed`:
    an integer, or several."""
    rows = embedding_VD[: old.vocab_size].astype(np.float64)
    noise = np.random.default_rng(seed).standard_normal((new.vocab_size, rows.shape[1]))
    return _kept(embedding_VD, old, new, rows.mean(0) + rows.std(0) * noise)


def mean_of_pieces(embedding_VD, pieces):
    """The mean of the rows of each list of ids, float64 [N, D]; of an empty one the mean of all rows."""
    total = np.mean(embedding_VD, axis=0, dtype=np.float64)
    return np.stack([np.mean(embedding_VD[p], axis=0, dtype=np.float64) if len(p) else total for p in pieces])


def fvt(embedding_VD, old, new):
    """The mean of the rows of the old tokens that write a new token's bytes (fast vocabulary transfer, Gee et al. 2022)."""
    pieces = old.encode_batch([new.token_bytes(i) for i in range(new.vocab_size)])
    return _kept(embedding_VD, old, new, mean_of_pieces(embedding_VD[: old.vocab_size], pieces))


def grams(tokenizer):
    """A vector of each token from its bytes alone: counts of the n-grams of 1 to 4 bytes in it, its edges marked, hashed
    to 512 numbers and put to length 1. [V, 512]. Where FOCUS trains fastText on a corpus, this stands in."""
    result = np.zeros((tokenizer.vocab_size, BUCKETS))
    for i in range(tokenizer.vocab_size):
        data = [256, *tokenizer.token_bytes(i), 257]
        for n in GRAMS:
            for at in range(len(data) - n + 1):
                code = 0
                for value in data[at : at + n]:
                    code = (code * 1_000_003 + value + 1) % 2**61
                result[i, code % BUCKETS] += 1 - 2 * (code // BUCKETS % 2)
    return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)


def sparsemax(x_MN):
    """The nearest point of the simplex to each row (Martins & Astudillo 2016)."""
    z = np.sort(x_MN, axis=1)[:, ::-1]
    sums, k = np.cumsum(z, axis=1) - 1, np.arange(1, x_MN.shape[1] + 1)
    support = np.count_nonzero(z * k > sums, axis=1)
    threshold = np.take_along_axis(sums, support[:, None] - 1, axis=1) / support[:, None]
    return np.maximum(x_MN - threshold, 0)


def focus(embedding_VD, old, new, auxiliary_VA=None):
    """Sums of shared tokens' rows, weighted by the sparsemax of their likeness to a new token (FOCUS, Dobler & de Melo
    2023). `auxiliary_VA`: vectors of the new tokens in a space where the alike are near; None: `grams`."""
    space = np.asarray(grams(new) if auxiliary_VA is None else auxiliary_VA, np.float64)
    space = space / np.maximum(np.linalg.norm(space, axis=1, keepdims=True), 1e-12)
    to, source = shared(old, new)
    fill = np.empty((new.vocab_size, embedding_VD.shape[1]))
    rows = embedding_VD[source].astype(np.float64)
    for first in range(0, new.vocab_size, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        fill[part] = sparsemax(space[part] @ space[to].T) @ rows
    return _kept(embedding_VD, old, new, fill)


def pursuit(atoms_NA, targets_MA, k):
    """Orthogonal matching pursuit (Pati et al. 1993): (which atoms [M, k], coefficients [M, k]) of a sum of up to k
    atoms near each target. The best atom for the residual is added, and all coefficients fitted again; where nothing is
    left to explain, coefficients are 0."""
    atoms, targets = np.asarray(atoms_NA, np.float64), np.asarray(targets_MA, np.float64)
    unit = atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)
    k, M = min(k, *atoms.shape), len(targets)
    chosen, found = np.zeros((M, k), np.int64), np.zeros((M, k))
    for first in range(0, M, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        chosen[part], found[part] = _pursue(atoms, unit, targets[part], k)
    return chosen, found


def _pursue(atoms, unit, targets, k):
    """By Gram-Schmidt: the chosen atoms are R^T q with orthonormal q, and the coefficients solve R c = q . target."""
    M, A = targets.shape
    q, r, y = np.zeros((M, k, A)), np.tile(np.eye(k), (M, 1, 1)), np.zeros((M, k))
    chosen, residual, rows = np.zeros((M, k), np.int64), targets.copy(), np.arange(M)
    enough = 1e-10 * np.maximum(np.linalg.norm(targets, axis=1), 1e-300)
    for j in range(k):
        likeness = np.abs(residual @ unit.T)
        likeness[rows[:, None], chosen[:, :j]] = -1
        chosen[:, j] = np.argmax(likeness, axis=1)
        atom = atoms[chosen[:, j]]
        rest = atom.copy()
        for _ in range(2):  # the second time for what rounding left
            along = np.einsum("mja,ma->mj", q[:, :j], rest)
            rest -= np.einsum("mj,mja->ma", along, q[:, :j])
            r[:, :j, j] += along
        norm = np.linalg.norm(rest, axis=1)
        adds = (norm > 1e-8 * np.linalg.norm(atom, axis=1)) & (np.linalg.norm(residual, axis=1) > enough)
        r[:, :j, j] *= adds[:, None]
        r[:, j, j] = np.where(adds, norm, 1.0)
        q[:, j] = np.where(adds[:, None], rest / np.where(adds, norm, 1.0)[:, None], 0.0)
        y[:, j] = np.einsum("ma,ma->m", q[:, j], residual)
        residual -= y[:, j, None] * q[:, j]
    return chosen, np.linalg.solve(r, y[..., None])[..., 0]


def omp(embedding_VD, old, new, donor_VA=None, k=64):
    """Sums of shared tokens' rows, with the coefficients that give a new token's row in the donor's space (Goddard &
    Fernandes Neto 2025, arXiv 2506.06607). `donor_VA`: the embedding of a model with the new tokenizer; None: `grams`."""
    space = grams(new) if donor_VA is None else np.asarray(donor_VA, np.float64)[: new.vocab_size]
    to, source = shared(old, new)
    missing = np.setdiff1d(np.arange(new.vocab_size), to)
    fill = np.tile(_mean(embedding_VD, old), (new.vocab_size, 1))
    if len(missing):
        chosen, c = pursuit(space[to], space[missing], k)
        fill[missing] = np.einsum("mk,mkd->md", c, embedding_VD[source].astype(np.float64)[chosen])
    return _kept(embedding_VD, old, new, fill)


def tokenadapt(embedding_VD, old, new, neighbours=5, share=0.3, temperature=0.3):
    """(1 - share) of the mean of a new token's pieces, weighted by likeness and length, and `share` of the mean of the
    old tokens nearest to it, weighted by the softmax of likeness / temperature (TokenAdapt, from "Achieving
    Tokenizer Flexibility in Language Models through Heuristic Adaptation and Supertoken Learning", 2025). `share` 0
    is its local estimate alone, 1 its global one.

    Likeness is that of `grams`, where the paper asks a model of texts; how likeness and length weigh a piece, here by
    their mean, is this code's choice.
    """
    before, after = grams(old), grams(new)
    rows, fill = embedding_VD.astype(np.float64), np.tile(_mean(embedding_VD, old), (new.vocab_size, 1))
    named = np.array([bool(old.token_bytes(i)) for i in range(old.vocab_size)])
    missing = np.setdiff1d(np.arange(new.vocab_size), shared(old, new)[0])
    pieces = old.encode_batch([new.token_bytes(int(i)) for i in missing])
    for i, parts in zip(missing, pieces, strict=True):
        if not len(parts):
            continue
        alike = before @ after[i]
        length = np.array([len(old.token_bytes(int(p))) for p in parts], float)
        weight = np.maximum(alike[parts], 0)
        weight = weight / max(weight.sum(), 1e-12) + length / length.sum()
        local = weight @ rows[parts] / weight.sum()
        near = np.argsort(np.where(named, -alike, np.inf))[:neighbours]
        pull = np.exp((alike[near] - alike[near].max()) / temperature)
        fill[i] = (1 - share) * local + share * (pull @ rows[near]) / pull.sum()
    return _kept(embedding_VD, old, new, fill)


METHODS = {
    "zero": zero,
    "mean": mean,
    "random": random,
    "fvt": fvt,
    "focus": focus,
    "tokenadapt": tokenadapt,
    "tokenadapt_local": functools.partial(tokenadapt, share=0.0),
    "tokenadapt_global": functools.partial(tokenadapt, share=1.0),
    "omp": omp,
}


def transferred(model, params, teacher, old, new, method, donor=None, k=64, seed=0):
    """Variables of `model`, which is another's but for its vocabulary: the other's (`teacher`), with new rows in
    embedding and head, in the dtypes of the old. `params`: fresh ones, whose rows stand for ids above the tokenizer's.
    `donor`: for "omp", variables of a model with the new tokenizer; `k`: likewise, see `omp`. `seed`: of what is drawn,
    for embedding and head apart."""
    if method not in METHODS:
        raise UserError(f"Embeddings are made by {', '.join(METHODS)}, not by {method!r}.")
    if donor is not None and method != "omp":
        raise UserError("Only omp looks at a donor.")

    def rows(which, fresh_VD, old_VD, donor_VA):
        fresh_VD, dtype = np.array(fresh_VD), np.asarray(old_VD).dtype
        old_VD = np.asarray(old_VD, np.float32)
        _require_rows("The old tokenizer", old, old_VD)
        more = {"omp": {"k": k}, "random": {"seed": (seed, which)}}.get(method, {})
        if donor_VA is not None:
            _require_rows("The donor's tokenizer", new, donor_VA)
            more["donor_VA"] = _padded(np.asarray(donor_VA, np.float32), new)
        made = METHODS[method](_padded(old_VD, old), old, new, **more)
        if len(made) > len(fresh_VD):
            raise UserError(f"The new tokenizer has {len(made)} ids but the model only {len(fresh_VD)}.")
        fresh_VD[: len(made)] = made
        return fresh_VD.astype(dtype)

    result, known = dict(teacher["params"]), teacher["params"]
    given = {} if donor is None else donor["params"]
    result["embedding"] = rows(0, params["params"]["embedding"], known["embedding"], given.get("embedding"))
    if "head" in known:
        head = np.asarray(given["head"]).T if "head" in given else given.get("embedding")
        new_head = rows(1, np.asarray(params["params"]["head"]).T, np.asarray(known["head"]).T, head)
        result["head"] = np.ascontiguousarray(new_head.T)
    return {"params": result}


def _require_rows(what, tokenizer, rows_VD):
    size = getattr(tokenizer, "own_size", tokenizer.vocab_size)
    if len(rows_VD) < size:
        raise UserError(f"{what} has {size} ids but its model only {len(rows_VD)}.")


def _padded(rows_VD, tokenizer):
    """With the mean row for ids that the model has no rows for: a published tokenizer may have some here, for bytes that
    no text holds."""
    missing = max(0, tokenizer.vocab_size - len(rows_VD))
    return np.concatenate([rows_VD, np.tile(rows_VD.mean(0), (missing, 1))]) if missing else rows_VD
