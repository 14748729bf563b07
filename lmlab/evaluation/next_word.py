"""How often a model knows the whole next word, by how common the word is: for every kind of tokens alike."""

import collections
import dataclasses
import re

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows
from lmlab.evaluation.bits_per_byte import bits_per_byte

WORD = re.compile(rb"\S+")
BUCKETS = {"unseen": 0, "rare": 1, "some": 10, "common": 100}  # smallest count in the counted training text


@dataclasses.dataclass(frozen=True)
class NextWord:
    """Share of the words of test excerpts that greedy decoding from the true text before them would write.

    A word is a run of bytes without white space. It counts if every token of it is the likeliest one, and what the model
    holds for likeliest behind it does not go on with the word. A subword that begins with the space before its word must
    be right as a whole. HAT (arXiv 2501.10322) counts words like this; Learn Your Tokens (arXiv 2310.11628) samples
    instead. Counts are those of the first `count_bytes` of the training text.
    """

    split: str = "test"
    max_bytes: int = 100_000
    count_bytes: int = 20_000_000

    def __call__(self, model, params, data):
        """{"next_word", "next_word/<bucket>": accuracy in %, "next_word_share/<bucket>": % of the words}."""
        documents, tokenizer = list(data.baked.documents(self.split)), data.baked.tokenizer
        share = max(1, self.max_bytes // len(documents))
        documents = [document[:share] for document in documents]
        windows, best = Windows(stream_of(documents, tokenizer), data.length, tokenizer), []
        bits_per_byte(model, params, windows, data, lambda batch, scores: best.append(scores.best_BL.reshape(-1)))
        best, counts, sums = np.concatenate(best), self._counts(data.baked), np.zeros((len(BUCKETS), 2), np.int64)
        smallest = np.array(list(BUCKETS.values()))
        bounds = np.append(windows.stream.starts, len(windows.stream.tokens))
        for document, start, end in zip(documents, bounds[:-1], bounds[1:], strict=True):
            ids = windows.stream.tokens[start + 1 : end]  # EOS is the last; `best[t]` speaks of token t + 1
            for word, right in right_words(document, ids, best[start : end - 1], tokenizer):
                bucket = int(np.searchsorted(smallest, counts[word], "right")) - 1
                sums[bucket] += right, 1
        right, words = sums.T
        result = {"next_word": 100 * float(right.sum() / max(1, words.sum()))}
        for i, name in enumerate(BUCKETS):
            result[f"next_word/{name}"] = 100 * float(right[i] / max(1, words[i]))
            result[f"next_word_share/{name}"] = 100 * float(words[i] / max(1, words.sum()))
        return result

    def _counts(self, baked):
        counts, seen = collections.Counter(), 0
        for document in baked.documents("train"):
            counts.update(WORD.findall(document))
            seen += len(document)
            if seen >= self.count_bytes:
                break
        return counts


def right_words(document, ids, best, tokenizer):
    """Yields (word, whether it is known) of a document. `ids`: its tokens and EOS; `best`: the likeliest of each."""
    spans = tokenizer.byte_spans(ids[:-1])
    starts = np.append(spans[:, 0], len(document))
    ends = np.append(spans[:, 1], len(document) + 1)
    covers = np.flatnonzero(ends > starts)
    wrong = np.concatenate([[0], np.cumsum(ids != best)])
    for match in WORD.finditer(document):
        a, b = match.span()
        first = np.searchsorted(ends, a, "right")
        behind = covers[np.searchsorted(starts[covers], b, "left")]
        follows = int(best[behind])
        stops = follows == tokenizer.eos or not tokenizer.token_bytes(follows)[:1].strip()
        yield match[0], bool(wrong[first] == wrong[behind] and stops)
