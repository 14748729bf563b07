"""Bytes that know where a subword tokenizer would cut them: what dynamic token pooling's predictors are taught from."""

import dataclasses
import pathlib
from collections.abc import Iterable

import numpy as np

from lmlab.text.bpe import BPETokenizer, train_bpe_up_to
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.unigram import Unigram


@dataclasses.dataclass(frozen=True)
class UnigramCuts(ByteTokenizer):
    """Recipe: bytes, and the cuts of a byte-level Unigram model (Kudo 2018) of `pieces` pieces, learned on the train split."""

    pieces: int = 500

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe, fit for a folder name."""
        return f"bytes-unigram{self.pieces}"

    def annotation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """What batches hold besides: {array: its shape without the rows}."""
        return {"cuts": (length,)}

    def train(self, documents: Iterable[bytes]) -> "CutTokenizer":
        """Learn the pieces; fewer if the documents hold no more."""
        return CutTokenizer(Unigram(self.pieces + 2).train(documents))

    def load(self, path: str | pathlib.Path) -> "CutTokenizer":
        """Read what this recipe trained."""
        return CutTokenizer(BPETokenizer.load(path))


@dataclasses.dataclass(frozen=True)
class BPECuts(UnigramCuts):
    """The same of a byte-level BPE, whose training, unlike a Unigram's, gives the same pieces every time."""

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe, fit for a folder name."""
        return f"bytes-bpe{self.pieces}"

    def train(self, documents: Iterable[bytes]) -> "CutTokenizer":
        """Learn the pieces; fewer if the documents hold no more."""
        return CutTokenizer(train_bpe_up_to(documents, self.pieces + 2))


@dataclasses.dataclass(frozen=True)
class CutTokenizer(ByteTokenizer):
    """Bytes, and a tokenizer that cuts them."""

    subwords: BPETokenizer

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name."""
        return f"bytes-{self.subwords.fingerprint}"

    def save(self, path: str | pathlib.Path) -> None:
        """Write the subword tokenizer."""
        self.subwords.save(path)

    def annotate(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"cuts": int32 [B, L], 1 at the last byte of every piece} of each document's part in each row on its own."""
        tokens_BL, segments_BL = batch["tokens"], batch["segment_ids"]
        cuts_BL = np.zeros(tokens_BL.shape, np.int32)
        for tokens, segments, cuts in zip(tokens_BL, segments_BL, cuts_BL, strict=True):
            edges = [0, *(np.flatnonzero(np.diff(segments)) + 1), len(segments)]
            for begin, end in zip(edges, edges[1:]):
                begin += tokens[begin] == self.bos  # no byte of the text
                if segments[end - 1] and begin < end:
                    ids = self.subwords.encode(tokens[begin:end].astype(np.uint8).tobytes())
                    cuts[begin + self.subwords.byte_spans(ids)[:, 1] - 1] = 1
        return {"cuts": cuts_BL}
