"""Very many tokens: what a model makes of them without training, and how much of its head need be looked at."""

import collections
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.evaluation.dynamic import Extended, excerpts, padded_rows
from lmlab.kernels.nearest import candidates, exact, inverted_file, search
from lmlab.text.dynamic import words_of


@dataclasses.dataclass(frozen=True)
class LargeVocabulary:
    """The model with `ids` ids, its own and the most frequent words of the training text that it writes in several:
    read and predicted as whole tokens, with nothing trained for it; and how much of an exact search for the likeliest
    an inverted file finds.

    `lists`, `probes`: those that rows are sorted into, and are looked at. `k`: tokens that stand for all in an
    approximate softmax.
    """

    ids: int = 8192
    lists: int = 64
    probes: int = 8
    k: int = 64
    split: str = "test"
    size: int = 512
    pieces: int = 64
    batch: int = 16
    count_bytes: int = 4_000_000

    def __call__(self, model, params, data):
        """{"large_ids", "large_bpb": bits per byte over all these ids, "large_bytes_per_token", and
        "own_bytes_per_token" of the model's own tokens; in % of positions: "recall_1": the likeliest is found,
        "recall_10": of the ten likeliest; "mass": probability of the k that are found; "compared": % of the rows that
        are looked at}; and, if there are words, "truncated": % of those that a hypernetwork reads in part."""
        reader = Extended(model, params, data.baked.tokenizer)
        further = self._words(reader, data.baked)
        grown, variables = reader.with_rows(further)
        known = reader.size + len(further)
        number = {word: reader.size + i for i, word in enumerate(further)}
        texts, _ = excerpts(data.baked, self.split, self.size, 1, self.pieces)
        sequences = [[reader.tokenizer.bos, *self._encode(reader, number, text)] for text in texts]
        length = max(map(len, sequences)) - 1
        rows = variables["params"]["embedding" if reader.base.tied else "head"]
        rows = np.asarray(rows if reader.base.tied else rows.T, np.float32)[:known]
        index = inverted_file(rows, min(self.lists, known))
        nats, found = 0.0, collections.Counter()
        for first in range(0, len(sequences), self.batch):
            data.check()
            part = sequences[first : first + self.batch]
            tokens, targets = padded_rows(part + part[:1] * (self.batch - len(part)), length)
            states, own = reader.read(grown, variables, tokens, targets, known)
            scored = np.arange(length)[None] < np.array([len(of) - 1 for of in part])[:, None]
            nats += float(np.sum(own[: len(part)] * scored, dtype=np.float64))
            found.update(self._compare(rows, index, states[: len(part)], scored))
        truncated = {"truncated": 100 * reader.truncated(further) / len(further)} if further else {}
        tokens, seen = found.pop("positions"), {name: 100 * found[name] for name in ("recall_1", "recall_10", "mass")}
        return {
            "large_ids": float(known),
            "large_bpb": nats / (math.log(2) * sum(map(len, texts))),
            "large_bytes_per_token": sum(map(len, texts)) / tokens,
            "own_bytes_per_token": sum(map(len, texts)) / sum(len(reader.tokenizer.encode(text)) for text in texts),
            "compared": 100 * found["compared"] / tokens / known,
            **{name: value / tokens for name, value in seen.items()},
            **truncated,
        }

    def _compare(self, rows, index, states, scored):
        """Sums over positions. All positions are searched, so that few programs are compiled."""
        few = min(10, len(rows))
        result = collections.Counter(positions=int(scored.sum()))
        for queries, of in zip(states, scored, strict=True):
            top, best = (np.asarray(x) for x in exact(rows, queries, few))
            found, ids = (np.asarray(x) for x in search(index, queries, self.k, self.probes))
            total = np.asarray(jax.nn.logsumexp(jnp.asarray(queries) @ jnp.asarray(rows).T, axis=-1))
            looked_at = np.asarray(jnp.sum(candidates(index, queries, self.probes) >= 0, axis=1))
            among = (best[:, :, None] == ids[:, None]).any(axis=-1)
            result["recall_1"] += float(among[of, 0].sum())
            result["recall_10"] += float(among[of].mean(axis=1).sum())
            result["mass"] += float(np.exp(found - total[:, None])[of].sum())
            result["compared"] += int(looked_at[of].sum())
        return result

    def _encode(self, reader, number, text):
        ids = []
        for word in words_of(reader.tokenizer, text):
            whole = number.get(b"".join(word))
            ids += [reader.id_of[token] for token in word] if whole is None else [whole]
        return ids

    def _words(self, reader, baked):
        """The most frequent words that are no tokens."""
        counts, seen = collections.Counter(), 0
        for document in baked.documents("train"):
            ends = reader.tokenizer.word_ends(document).tolist()
            counts.update(document[begin:end] for begin, end in zip([0, *ends], ends))
            seen += len(document)
            if seen >= self.count_bytes:
                break
        ranked = sorted((-count, word) for word, count in counts.items() if word not in reader.id_of)
        return [word for _, word in ranked[: max(0, self.ids - reader.size)]]
