"""Next-byte probabilities from counts: the smallest language model, for coders of short contexts."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class ByteCounts:
    """Counts of n-grams for n = 1 .. `order`; probabilities are interpolated after Witten and Bell (1991).

    p(b | context) = (c(context b) + T p(b | context without its first byte)) / (c(context) + T), with T the number of
    different bytes seen behind the context; below them all stands 1 / 256.
    """

    grams: tuple[tuple[np.ndarray, np.ndarray], ...] = dataclasses.field(repr=False)  # of each n: (sorted, counts)

    @classmethod
    def of(cls, documents: Iterable[bytes], order: int, max_bytes: int = 4_000_000) -> "ByteCounts":
        """Count the first `max_bytes` of the documents. `order` is 0 (nothing is counted) to 8."""
        parts, seen = [], 0
        for data in documents:
            parts.append(np.frombuffer(data, np.uint8)[: max_bytes - seen].astype(np.uint64))
            seen += len(parts[-1])
            if seen >= max_bytes:
                break
        grams = []
        for n in range(1, order + 1):
            packed = [sum(part[i : len(part) - n + 1 + i] << np.uint64(8 * (n - 1 - i)) for i in range(n)) for part in parts if len(part) >= n]
            grams.append(np.unique(np.concatenate([np.zeros(0, np.uint64), *packed]), return_counts=True))
        return cls(tuple(grams))

    def next(self, contexts: Sequence[bytes]) -> np.ndarray:
        """Probabilities of the byte behind each context, of which the last `order` - 1 bytes count: float64 [n, 256]."""
        return np.stack([self._next(context) for context in contexts]) if contexts else np.zeros((0, 256))

    def _next(self, context):
        p = np.full(256, 1 / 256)
        for n, (grams, counts) in enumerate(self.grams[: len(context) + 1], 1):
            prefix = int.from_bytes(context[len(context) - n + 1 :], "big") << 8
            first, last = np.searchsorted(grams, np.array([prefix, prefix + 255], np.uint64), "left")
            last += last < len(grams) and int(grams[last]) == prefix + 255
            if first == last:
                break
            c, kinds = np.zeros(256), last - first
            c[(grams[first:last] & np.uint64(255)).astype(np.int64)] = counts[first:last]
            p = (c + kinds * p) / (c.sum() + kinds)
        return p
