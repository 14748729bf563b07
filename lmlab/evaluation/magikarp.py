"""Under-trained tokens (Magikarp; Land and Bartolo 2024, arXiv 2405.05417): found in the weights, verified by prompts.

Rows of the unembedding of tokens that are never asked for are all pushed the same way, and so stay alike; rows of the
embedding that are never read only decay. Tokens known to be unused (bytes that no UTF-8 text holds, BOS as an answer)
say where the unused rows are.
"""

import dataclasses

import jax
import numpy as np
from scipy.stats import rankdata

from lmlab.errors import UserError
from lmlab.evaluation.scoring import score
from lmlab.text.tokenizer_file import NEVER
from lmlab.text.vocabulary import kind, unreachable

INDICATORS = ("input_norm", "output_norm", "cosine", "cosine_centred", "cosine_principal")


def unused_ids(tokenizer, tied=False):
    """Ids whose output rows no text trains: the tokens of single bytes that UTF-8 does not have, and BOS, which is never a
    target; of tied weights without it, as its row is read at the start of every document."""
    never = {bytes([b]) for b in NEVER}
    ids = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) in never]
    return ids if tied else [*ids, tokenizer.bos]


def indicators(params, unused):
    """{indicator: float64 [V], small where a token looks unused}, from {"embedding": [V, D], "head": [D, V] if untied}.

    "input_norm" and "output_norm": of the rows; a tied model has the latter alone. "cosine": distance of the output row
    to the mean row of `unused`; "cosine_centred": after all rows' mean, "cosine_principal": after their first principal
    component is taken away. Where most tokens are unused, that component is what they share: use another.
    """
    E_VD = np.asarray(params["embedding"], np.float64)
    U_VD = np.asarray(params["head"], np.float64).T if "head" in params else E_VD
    found = {"input_norm": np.linalg.norm(E_VD, axis=1)} if "head" in params else {}
    first = np.linalg.svd(U_VD, full_matrices=False)[2][0]
    return found | {
        "output_norm": np.linalg.norm(U_VD, axis=1),
        "cosine": _distance(U_VD, unused),
        "cosine_centred": _distance(U_VD - U_VD.mean(axis=0), unused),
        "cosine_principal": _distance(U_VD - (U_VD @ first)[:, None] * first, unused),
    }


def _distance(U_VD, unused):
    mean = U_VD[unused].mean(axis=0)
    norms = np.linalg.norm(U_VD, axis=1) * np.linalg.norm(mean)
    return 1 - (U_VD @ mean) / np.maximum(norms, 1e-12)


def area_under_curve(values, untrained):
    """Probability that an untrained token has a smaller value than another; nan where there are none of either."""
    n, m = int(untrained.sum()), int((~untrained).sum())
    if not n or not m:
        return float("nan")
    ranks = rankdata(values)
    return float(1 - (ranks[untrained].sum() - n * (n + 1) / 2) / (n * m))


def repeated(model, params, tokenizer, tokens, rows=32, length=32):
    """float64 [tokens]: the largest probability that the model gives a token behind prompts that repeat it: it alone,
    in lines, and in quotes."""
    fillers = [tokenizer.encode(text) for text in (b"", b"\n", b'" "')]
    result = np.zeros(len(tokens))
    for filler in fillers:
        for at in range(0, len(tokens), rows):
            group = tokens[at : at + rows]
            batch = {"tokens": np.zeros((rows, length), np.int32), "segment_ids": np.ones((rows, length), np.int32)}
            batch |= {"targets": np.zeros((rows, length), np.int32), "weights": np.zeros((rows, length), np.float32)}
            batch["target_bytes"] = np.zeros((rows, length), np.int32)
            for row, token in enumerate(group):
                line = np.concatenate([[token], filler]).astype(np.int32)
                count = (length - 1) // len(line)
                prompt = np.concatenate([[tokenizer.bos], np.tile(line, count)])
                batch["tokens"][row, : len(prompt)] = prompt
                batch["targets"][row, len(prompt) - 1], batch["weights"][row, len(prompt) - 1] = token, 1
            nats = score(model, params, batch).nats_BL.sum(axis=1)[: len(group)]
            result[at : at + rows] = np.maximum(result[at : at + rows], np.exp(-nats.astype(np.float64)))
    return result


def suspects(params, tokenizer, indicator=None):
    """(candidates: ids, the most suspicious first; {indicator: float64 [V]}; the name of the one they are in order of).

    Not candidates, as in the paper: pieces of characters, and tokens that the tokenizer does not write for their own bytes;
    nor single bytes, which every tokenizer has. `indicator` None: the paper's, the norm of the input row, or of tied weights
    the cosine. UserError for a model without rows of tokens, or without candidates.
    """
    weights = {k: np.asarray(v) for k, v in jax.device_get(params["params"]).items() if k in ("embedding", "head")}
    size = tokenizer.vocab_size
    if "embedding" not in weights:
        raise UserError("Under-trained tokens are found in a model's embedding, and this one has none.")
    weights = {k: v[:size] if k == "embedding" else v[:, :size] for k, v in weights.items()}
    kinds = np.array([kind(tokenizer.token_bytes(i)) for i in range(size)])
    asked = ~np.isin(kinds, ("fragment", "special")) & (tokenizer.token_lengths() > 1)
    asked[unreachable(tokenizer)] = False
    if not asked.any():
        raise UserError("None of this model's tokens has more than a byte: there is none that its text may have lacked.")
    found = indicators(weights, unused_ids(tokenizer, tied="head" not in weights))
    indicator = indicator or ("input_norm" if "head" in weights else "cosine")
    if indicator not in found:
        raise UserError(f"The indicator of this model's unused tokens is one of {', '.join(found)}, not {indicator}.")
    ids = np.flatnonzero(asked)
    return ids[np.argsort(found[indicator][ids], kind="stable")], found, indicator


def flagged_count(ids, share):
    """How many of the candidates a share of them is, at least one."""
    return max(1, round(share * len(ids)))


@dataclasses.dataclass(frozen=True)
class UnderTrained:
    """How well the weights of a `LanguageModel` tell which tokens its training text never held.

    The `share` of the candidates (see `suspects`) that looks most unused under `indicator` is flagged, and verified where no
    prompt gives it a probability of `least`.
    """

    split: str = "train"  # whose tokens are counted
    indicator: str | None = None
    share: float = 0.02
    least: float = 0.01

    def __post_init__(self):
        if self.indicator not in (None, *INDICATORS) or not 0 < self.share < 1:
            raise UserError(f"The indicator is one of {', '.join(INDICATORS)}, and share is between 0 and 1.")

    def __call__(self, model, params, data):
        """{"candidates", "untrained": number of tokens, "chance": % that never occurred, "auc/<indicator>", "precision": %
        of the flagged that never occurred, "recall": % of those that never occurred among as many of the most
        suspicious, "verified": % of the flagged that cannot be repeated, "verified_others": of as many others}."""
        tokenizer, stream = data.baked.tokenizer, data.baked.split(self.split)
        counts = np.zeros(tokenizer.vocab_size, np.int64)
        for at in range(0, len(stream.tokens), 1 << 22):
            counts += np.bincount(stream.tokens[at : at + (1 << 22)], minlength=tokenizer.vocab_size)
        ids, found, _ = suspects(params, tokenizer, self.indicator)
        untrained = counts[ids] == 0
        flagged, others = np.split(ids, [flagged_count(ids, self.share)])
        others = np.random.default_rng(0).permutation(others)[: len(flagged)]
        low, high = (repeated(model, params, tokenizer, some) < self.least for some in (flagged, others))
        as_many = untrained[: int(untrained.sum())]
        return {f"auc/{name}": area_under_curve(values[ids], untrained) for name, values in found.items()} | {
            "candidates": float(len(ids)),
            "untrained": float(untrained.sum()),
            "chance": 100 * float(untrained.mean()),
            "precision": 100 * float(untrained[: len(flagged)].mean()),
            "recall": 100 * float(as_many.mean()) if len(as_many) else 100.0,
            "verified": 100 * float(low.mean()),
            "verified_others": 100 * float(high.mean()),
        }
