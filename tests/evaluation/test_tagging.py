"""Right, found and wanted starts are those that a walk over the bytes counts."""

import jax
import pytest

from lmlab.data.bake import bake
from lmlab.data.mixture import Mixture
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.tagging import Tagging
from lmlab.models.build import hierarchy
from lmlab.models.chunkers import FixedStride
from lmlab.models.language_model import LanguageModel, init
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.cuts import BPECuts

BODY = hierarchy(["T1", ["T1"], "T1"], (16, 16), (16, 16), 2, chunker=lambda width, target: FixedStride(3))
MODEL = LanguageModel(256, BODY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    for name, word in (("one", "reader"), ("two", "Писатель")):
        (path / name).mkdir()
        (path / name / "t.txt").write_text("".join(f"{word}s write {i} {word}\n" for i in range(150)))
    return str(path)


def counted(documents, tokenizer):
    """(right, found, wanted) of starts at every third position, BOS the first."""
    sums = [0, 0, 0]
    for data in documents:
        starts = {1 + int(s) for s in tokenizer.subwords.byte_spans(tokenizer.subwords.encode(data))[1:, 0]}
        found = set(range(3, len(data) + 2, 3))  # EOS is read as well
        sums = [a + len(b) for a, b in zip(sums, (starts & found, found, starts | {1 + len(data)}), strict=True)]
        sums[0] += 1 + len(data) in found
    return sums


def test_counts_equal_a_walk_over_the_bytes(folder, tmp_path):
    # A document a row: what follows its last byte is EOS, which as the end of the last piece starts a chunk too.
    data = Data(bake(Mixture(folder, 1500, 60, 0.2, 0.2), BPECuts(pieces=280), tmp_path), 128, 4)
    params = init(MODEL, jax.random.key(0))
    tagging = Tagging("test")
    for name, documents in data.baked.texts("test").items():
        mine = [sum(column) for column in zip(*(
            tagging._counts(MODEL, params, data, [d])[0] for d in documents), strict=True)]  # fmt: skip
        assert mine == counted(documents, data.baked.tokenizer), name
    found = tagging(MODEL, params, data)
    assert {"one/f1", "two/f1", "f1", "f1_inside", "precision", "recall"} == set(found)
    assert 0 < found["f1_inside"] <= 100 and min(found["precision"], found["recall"]) <= found["f1"]


def test_bytes_without_cuts_have_no_tags(folder, tmp_path):
    data = Data(bake(Mixture(folder, 1500, 60, 0.2, 0.2), ByteTokenizer(), tmp_path), 128, 4)
    assert Tagging("test")(MODEL, None, data) == {}
