"""Two tokenizers over the same bytes, a student's and a teacher's: where both cut, and batches that carry both.

Between two offsets at which both tokenizations have a boundary lies a chunk: the shortest stretch of text to which
both models give a probability (Minixhofer et al. 2025, "Cross-Tokenizer Distillation via Approximate Likelihood
Matching").
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from lmlab.errors import UserError

SPACE = b" \t\n\r"
TEACHERS = ("teacher_tokens", "teacher_targets", "teacher_segment_ids", "teacher_chunks")


def align(ends_a, ends_b):
    """(chunk of each token of a, of each of b, chunks) from the offsets at which tokens end, ascending.

    UserError unless both end at the same offset: then every byte lies in one chunk.
    """
    ends_a, ends_b = np.asarray(ends_a, np.int64), np.asarray(ends_b, np.int64)
    if not len(ends_a) or not len(ends_b) or ends_a[-1] != ends_b[-1]:
        raise UserError("Two tokenizations of different bytes cannot be aligned.")
    common = np.intersect1d(ends_a, ends_b)
    return np.searchsorted(common, ends_a), np.searchsorted(common, ends_b), len(common)


def begins_word(tokenizer, size):
    """bool [size]: ids whose bytes begin with white space, and EOS. Ids above the vocabulary begin nothing."""
    known = [tokenizer.token_bytes(i)[:1] in [bytes([b]) for b in SPACE] for i in range(tokenizer.vocab_size)]
    result = np.zeros(size, bool)
    result[: len(known)] = known
    result[tokenizer.eos] = True
    return result


def positions(share, length):
    """Of the teacher's in a row of `length` of the student's: a multiple of 8."""
    return -(-round(share * length) // 8) * 8


@dataclasses.dataclass(frozen=True)
class Beside:
    """Recipe: a student's tokenizer, and in every batch the same text in a teacher's.

    `positions`: of a row in the teacher's tokens over one in the student's. What does not fit is in no chunk.
    """

    student: Any
    teacher: Any
    positions: float = 1.0

    @property
    def vocab_size(self) -> int:
        """The student's."""
        return self.student.vocab_size

    @property
    def bytes_per_token(self) -> float:
        """The student's."""
        return self.student.bytes_per_token

    @property
    def fingerprint(self) -> str:
        """Short name of the recipe, fit for a folder name."""
        return f"{self.student.fingerprint}-beside-{self.teacher.fingerprint}"

    def annotation_shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """What batches hold besides: {array: its shape without the rows}."""
        return dict.fromkeys(TEACHERS, (positions(self.positions, length),)) | {"chunks": (length,)}

    def train(self, documents: Iterable[bytes]) -> "Paired":
        """Both, each on all documents."""
        documents = list(documents)
        return Paired(self.student.train(documents), self.teacher.train(documents), self.positions)

    def load(self, path: str | pathlib.Path) -> "Paired":
        """Read what this recipe trained."""
        try:
            texts = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            named = {name: texts[name] for name in ("student", "teacher")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} does not hold two tokenizers ({error}).") from error
        with tempfile.TemporaryDirectory() as folder:
            loaded = {}
            for name, text in named.items():
                file = pathlib.Path(folder) / f"{name}.json"
                if text is not None:
                    file.write_text(text, encoding="utf-8")
                loaded[name] = getattr(self, name).load(file)
        return Paired(loaded["student"], loaded["teacher"], self.positions)


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two trained tokenizers: the student's, by all that is asked of a tokenizer, and the teacher's beside it."""

    student: Any
    teacher: Any
    positions: float = 1.0

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.student, name)

    @property
    def fingerprint(self) -> str:
        """Short name, fit for a folder name."""
        return f"{self.student.fingerprint}-beside-{self.teacher.fingerprint}"

    def save(self, path: str | pathlib.Path) -> None:
        """Write both as one file."""
        texts = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in ("student", "teacher"):
                file = pathlib.Path(folder) / f"{name}.json"
                getattr(self, name).save(file)
                texts[name] = file.read_text(encoding="utf-8") if file.exists() else None
        pathlib.Path(path).write_text(json.dumps(texts), encoding="utf-8")

    def annotate(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The teacher's side of a batch, and the chunks of both: {"teacher_tokens", "teacher_targets",
        "teacher_segment_ids", "teacher_chunks": int32 [B, M], "chunks": int32 [B, L]}.

        Each document's part in a row is written in the teacher's tokens, BOS and EOS where the student's has them.
        Chunks are numbered along the row; -1 is a target that is in none: where a part does not begin with BOS, its
        first token is no target, and the first chunk is left out.
        """
        B, L = batch["tokens"].shape
        M = positions(self.positions, L)
        result = {name: np.zeros((B, M), np.int32) for name in TEACHERS} | {"chunks": np.full((B, L), -1, np.int32)}
        result["teacher_chunks"] -= 1
        parts = [self._parts(batch, row) for row in range(B)]
        texts = [self.student.decode(part.ids) for row in parts for part in row]
        encoded = iter(self.teacher.encode_batch(texts))
        for row, found in enumerate(parts):
            ids, chunks, segments, count = [], [], [], 0
            for part in found:
                written = next(encoded)
                ends = [x.byte_spans(t)[:, 1] for x, t in ((self.student, part.ids), (self.teacher, written))]
                ours, theirs, n = align(*ends) if len(part.ids) else (np.zeros(0, int), np.zeros(0, int), 0)
                skipped = int(not part.begins)
                ours, theirs = (np.where(x < skipped, -1, x - skipped + count) for x in (ours, theirs))
                count += max(0, n - skipped)
                if part.ends:
                    written = np.append(written, self.teacher.eos)
                    ours, theirs = np.append(ours, count), np.append(theirs, count)
                    count += 1
                if part.begins:
                    written, theirs = np.insert(written, 0, self.teacher.bos), np.insert(theirs, 0, -1)
                first = part.first - 1  # the target of position t is token t + 1
                at = np.arange(first, first + len(ours))
                result["chunks"][row, at[at >= 0]] = ours[at >= 0]
                ids.append(written)
                chunks.append(theirs)
                segments.append(np.full(len(written), part.segment))
            self._fill({name: v[row] for name, v in result.items()}, ids, chunks, segments)
        return result

    def _parts(self, batch, row):
        """Each document's part in a row, its last target included."""
        tokens, targets, weights, segments = (batch[k][row] for k in ("tokens", "targets", "weights", "segment_ids"))
        edges = [0, *(np.flatnonzero(np.diff(segments)) + 1), len(segments)]
        found = []
        for begin, end in zip(edges, edges[1:]):
            scored = int(np.count_nonzero(weights[begin:end]))
            if not segments[begin] or not scored:
                continue
            ids = np.append(tokens[begin : begin + 1], targets[begin : begin + scored])
            begins = bool(ids[0] == self.student.bos)
            ends = bool(batch["target_bytes"][row, begin + scored - 1] == 0)
            ids = ids[begins : len(ids) - ends]
            found.append(_Part(ids, begin + begins, begins, ends, int(segments[begin])))
        return found

    @staticmethod
    def _fill(out, ids, chunks, segments):
        """Write a row of the teacher's; drop the chunks of which a token does not fit, on both sides."""
        if not ids:
            return
        ids, chunks, segments = (np.concatenate(v) for v in (ids, chunks, segments))
        M = len(out["teacher_tokens"])
        n = min(len(ids), M + 1)
        out["teacher_tokens"][: min(n, M)] = ids[: min(n, M)]
        out["teacher_segment_ids"][: min(n, M)] = segments[: min(n, M)]
        same = segments[1:n] == segments[: n - 1]
        out["teacher_targets"][: n - 1] = np.where(same, ids[1:n], 0)
        out["teacher_chunks"][: n - 1] = np.where(same, chunks[1:n], -1)
        lost = np.unique(chunks[n:])
        for name in ("chunks", "teacher_chunks"):
            out[name][np.isin(out[name], lost)] = -1


@dataclasses.dataclass(frozen=True)
class _Part:
    ids: np.ndarray  # of the student, without BOS and EOS
    first: int  # position of the first of them
    begins: bool  # with BOS
    ends: bool  # with EOS
    segment: int
