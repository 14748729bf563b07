"""Cuts of a subword tokenizer over bytes: at the ends of pieces, within documents, and the same when read back."""

import numpy as np

from lmlab.text.cuts import UnigramCuts

TEXT = ("the reader reads what the writer writes, " * 40).encode()


def test_cuts_lie_at_the_ends_of_pieces(tmp_path):
    recipe = UnigramCuts(pieces=300)
    made = recipe.train([TEXT, b"the \xff byte"])
    made.save(tmp_path / "tokenizer.json")
    text = np.frombuffer(b"the reader", np.uint8)
    tokens = np.r_[254, text, 255, 254, text, 0, 0][None].astype(np.int32)
    segments = np.r_[np.ones(12), np.full(11, 2), 0, 0][None].astype(np.int32)
    (cuts,) = made.annotate({"tokens": tokens, "segment_ids": segments})["cuts"]
    ends = made.subwords.byte_spans(made.subwords.encode(b"the reader"))[:, 1]
    assert 1 < len(ends) < 10
    np.testing.assert_array_equal(np.flatnonzero(cuts[:11]), ends)
    np.testing.assert_array_equal(np.flatnonzero(cuts[12:]), ends)
    assert recipe.load(tmp_path / "tokenizer.json") == made
