"""What is timed is the same work."""

import numpy as np

from lmlab.bench import text
from lmlab.data.corpora import StandardLibrary

DOCUMENTS = [d.data.decode("utf-8", "ignore").encode() for d in StandardLibrary(60_000).documents()]


def test_ours_cuts_as_the_library():
    """Of BPE; the library's Unigram training is not the same twice."""
    train = text.training(DOCUMENTS, 600)
    trained = {label: train[label]() for label in (text.BPE_LIBRARY, "BPE")}
    theirs, ours = (encode() for encode in text.encoding(DOCUMENTS, trained).values())
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_tokenizer_is_measured_beside_the_library():
    found = text.measure(60_000, 600, 1)
    assert list(found) == list(text.BESIDE)
    assert all(row["train"] > 0 and row["train_ratio"] > 0 for row in found.values())
    for label in (text.BPE_LIBRARY, text.UNIGRAM_LIBRARY):
        assert found[label]["train_ratio"] == found[label]["encode_ratio"] == 1
    assert "encode" not in found[text.PAIRS] and all("encode" in found[label] for label in found if label != text.PAIRS)
