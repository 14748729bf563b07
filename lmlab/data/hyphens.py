"""Words are read without their hyphens, and written with them: an encoder-decoder's task (CompoundPiece)."""

import dataclasses

import numpy as np

from lmlab.errors import UserError
from lmlab.text.compounds import HYPHEN


@dataclasses.dataclass(frozen=True)
class Dehyphenated:
    """A document, one word, loses its hyphens in the source; the target is all of it. As many whole words share a row as
    fit, each of which sees its own source alone; of a longer document the beginning is taken. For bytes."""

    @property
    def continues(self):
        """Such a model rewrites words; it does not continue a text."""
        return False

    def extra_ids(self, length):
        """None."""
        return 0

    def windows(self, stream, length, tokenizer):
        """`DehyphenatedWindows`."""
        return DehyphenatedWindows(stream, length, tokenizer)

    def shapes(self, length):
        """{array of a batch: its shape without the rows}."""
        names = ("inputs", "input_segment_ids", "tokens", "targets", "segment_ids", "target_bytes", "weights")
        return dict.fromkeys(names, (length,))

    def flops(self, model, length, ratios=()):
        """Forward FLOPs per position of the target by part, those of the source with them."""
        return {name: value / length for name, value in model.flops(length, length, ratios).items()}


class DehyphenatedWindows:
    """Rows of whole documents, in the order of the stream. UserError for tokens that are not bytes."""

    def __init__(self, stream, length, tokenizer):
        if tokenizer.vocab_size != 256 or length < 2:
            raise UserError("Hyphens are restored between bytes, in rows of at least 2.")
        self.stream, self.length, self._bos, self._eos = stream, length, tokenizer.bos, tokenizer.eos
        starts = np.asarray(stream.starts, np.int64) + 1
        ends = np.append(stream.starts[1:], len(stream.tokens)) - 1
        self._spans = np.stack([starts, np.minimum(ends, starts + length - 1)], axis=1)
        self._rows, used = [0], 0  # first document of each row
        for i, size in enumerate((self._spans[:, 1] - self._spans[:, 0] + 1).tolist()):  # with EOS
            if used + size > length:
                self._rows.append(i)
                used = 0
            used += size
        self._rows.append(len(self._spans))

    def __len__(self):
        return len(self._rows) - 1

    def batch(self, indices, draws=None):
        """{"inputs", "input_segment_ids", "tokens", "targets", "segment_ids", "target_bytes": int32 [B, L]; "weights":
        float32 [B, L]}. Words of a row are numbered from 1; a hyphen covers no byte of the source, and every letter one.
        Nothing is drawn. An index of -1 is an empty row of weight 0."""
        names = ("inputs", "input_segment_ids", "tokens", "targets", "segment_ids", "target_bytes")
        batch = {name: np.zeros((len(indices), self.length), np.int32) for name in names}
        batch["weights"] = np.zeros((len(indices), self.length), np.float32)
        for row, index in enumerate(np.asarray(indices, np.int64)):
            read = written = 0
            documents = range(self._rows[index], self._rows[index + 1]) if index >= 0 else ()
            for number, document in enumerate(documents, 1):
                begin, end = self._spans[document]
                word = np.asarray(self.stream.tokens[begin:end], np.int32)
                letters = word != HYPHEN[0]
                source, target = np.append(word[letters], self._eos), np.append(word, self._eos)
                at = slice(read, read + len(source))
                batch["inputs"][row, at], batch["input_segment_ids"][row, at] = source, number
                at = slice(written, written + len(target))
                batch["targets"][row, at], batch["tokens"][row, at] = target, np.append(self._bos, word)
                batch["segment_ids"][row, at], batch["weights"][row, at] = number, 1
                batch["target_bytes"][row, at] = np.append(letters, False)
                read, written = read + len(source), written + len(target)
        return batch
