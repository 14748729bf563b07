"""Token streams to batches. A training batch is a pure function of (seed, step)."""

import concurrent.futures

import numpy as np


class Windows:
    """Windows of `length` tokens over a stream, each target the next token.

    Window i reads tokens [i L, i L + L) and is scored on [i L + 1, i L + L + 1), so that every token but the BOS of
    each document is scored exactly once.
    """

    def __init__(self, stream, length, tokenizer):
        self.stream, self.length = stream, length
        self._lengths = tokenizer.token_lengths()

    def __len__(self):
        return max(1, -(-(len(self.stream.tokens) - 1) // self.length))

    def batch(self, indices):
        """Windows of these indices: {"tokens", "targets", "segment_ids", "target_bytes": int32 [B, L], "weights":
        float32 [B, L]}. An index of -1 is an empty row of weight 0."""
        stream, L = self.stream, self.length
        indices = np.asarray(indices, np.int64)
        position = np.where(indices[:, None] < 0, len(stream.tokens), indices[:, None] * L + np.arange(L + 1))
        inside = position < len(stream.tokens)
        clipped = np.minimum(position, len(stream.tokens) - 1)
        tokens = np.where(inside, stream.tokens[clipped], 0).astype(np.int32)
        document = np.searchsorted(stream.starts, clipped, side="right")
        segment = np.where(inside, document - document[:, :1] + 1, 0).astype(np.int32)
        scored = inside[:, 1:] & (segment[:, 1:] == segment[:, :-1])
        # The end of a document is a target of weight 1 that covers no byte: a code must say where it stops.
        # By position, not by value: bytes 254 and 255 inside a document are text.
        last = np.append(stream.starts[1:], len(stream.tokens)) - 1
        is_end = scored & (clipped[:, 1:] == last[document[:, 1:] - 1])
        covered = np.where(scored & ~is_end, self._lengths[tokens[:, 1:]], 0)
        read = segment[:, :-1] * inside[:, :-1]
        return {
            "tokens": tokens[:, :-1],
            "targets": np.where(scored, tokens[:, 1:], 0),
            "segment_ids": read.astype(np.int32),
            "weights": scored.astype(np.float32),
            "target_bytes": covered.astype(np.int32),
        }


class TrainBatches:
    """Batch `step` of a run: rows of a global shuffle, a new order every epoch, the same on any number of hosts."""

    def __init__(self, windows, batch_size, seed, process_index=0, process_count=1):
        import grain

        self.windows = windows
        self._indices = grain.MapDataset.range(len(windows)).seed(seed).shuffle().repeat()
        rows = batch_size // process_count
        self._batch_size, self._first, self._rows = batch_size, process_index * rows, rows

    def batch(self, step):
        """This process's rows of the batch of `step`."""
        first = step * self._batch_size + self._first
        return self.windows.batch([self._indices[first + i] for i in range(self._rows)])

    def iterate(self, start):
        """Batches from step `start` on, read ahead in a thread."""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(self.batch, start + i) for i in range(2)]
            step = start + 2
            while True:
                ahead.append(pool.submit(self.batch, step))
                step += 1
                yield ahead.pop(0).result()


def evaluation_batches(windows, batch_size):
    """Every window once, in order; the last batch is filled with empty rows."""
    indices = np.arange(len(windows))
    indices = np.concatenate([indices, np.full(-len(indices) % batch_size, -1)])
    for rows in indices.reshape(-1, batch_size):
        yield windows.batch(rows)
