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
        self._annotate = getattr(tokenizer, "annotate", lambda batch: {})
        self._bounds = np.append(stream.starts, len(stream.tokens))

    def __len__(self):
        return max(1, -(-(len(self.stream.tokens) - 1) // self.length))

    def batch(self, indices, draws=None):
        """Windows of these indices: {"tokens", "targets", "segment_ids", "target_bytes": int32 [B, L], "weights":
        float32 [B, L]}, and what the tokenizer annotates. An index of -1 is an empty row of weight 0. Nothing here is drawn
        by chance: `draws` is for windows that are corrupted (lmlab/data/corruptions.py)."""
        L = self.length
        indices = np.asarray(indices, np.int64)
        ids_BM = np.zeros((len(indices), L + 1), np.int32)
        inside_BM = np.zeros((len(indices), L + 1), bool)
        # Documents are found by position, never by value: in a document, a byte that looks like BOS or EOS is text.
        # bound[:, t]: position t of the window is the first of a document or just past the stream's end.
        bound_BN = np.zeros((len(indices), L + 2), bool)
        first, last = np.searchsorted(self._bounds, [indices * L, indices * L + L + 2])
        for row in np.flatnonzero(indices >= 0):
            begin = indices[row] * L
            part = self.stream.tokens[begin : begin + L + 1]
            ids_BM[row, : len(part)] = part
            inside_BM[row, : len(part)] = True
            bound_BN[row, self._bounds[first[row] : last[row]] - begin] = True

        segments_BL = np.cumsum(bound_BN[:, :L], axis=1, dtype=np.int32) + ~bound_BN[:, :1]
        scored_BL = inside_BM[:, 1:] & ~bound_BN[:, 1:-1]
        targets_BL = np.where(scored_BL, ids_BM[:, 1:], 0)
        # The end of a document is a target of weight 1 that covers no byte: a code must say where it stops.
        covers_BL = scored_BL & ~bound_BN[:, 2:]
        batch = {
            "tokens": ids_BM[:, :-1],
            "targets": targets_BL,
            "segment_ids": np.where(inside_BM[:, :-1], segments_BL, 0),
            "weights": scored_BL.astype(np.float32),
            "target_bytes": np.where(covers_BL, self._lengths[targets_BL], 0),
        }
        return batch | self._annotate(batch)


    def documents(self, index):
        """What window `index` holds, its last target included: [(number of the document, whether it begins here,
        whether it ends here, slice of its tokens without BOS and EOS)]."""
        begin, end = index * self.length, min((index + 1) * self.length + 1, len(self.stream.tokens))
        found = []
        for number in range(np.searchsorted(self._bounds, begin, "right") - 1, np.searchsorted(self._bounds, end)):
            first, last = int(self._bounds[number]), int(self._bounds[number + 1]) - 1  # its BOS and its EOS
            tokens = self.stream.tokens[max(begin, first + 1) : min(end, last)]
            found.append((number, begin <= first, last < end, tokens))
        return found


class TrainBatches:
    """Batch `step` of a run: rows of a global shuffle, a new order every epoch, the same on any number of hosts.

    The batch that straddles the end of an epoch takes its last rows from the next one. `rows`: numbers of the rows of
    every batch that are read here (None: all).
    """

    def __init__(self, windows, batch_size, seed, rows=None):
        import grain

        self.windows = windows
        self._indices = grain.MapDataset.range(len(windows)).seed(seed).shuffle().repeat()
        self._batch_size, self._rows = batch_size, np.arange(batch_size) if rows is None else np.asarray(rows)
        self._seed = seed

    def rows(self, step):
        """Numbers of the windows in the whole batch of `step`, those of other processes included."""
        return [int(self._indices[step * self._batch_size + row]) for row in range(self._batch_size)]

    def batch(self, step):
        """This process's rows of the batch of `step`."""
        numbers = [step * self._batch_size + int(row) for row in self._rows]
        return self.windows.batch([self._indices[n] for n in numbers], [(self._seed, n) for n in numbers])

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
