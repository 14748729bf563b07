"""Bytes have the entropy of their frequencies, and no phrases."""

import collections
import math

import pytest

from lmlab.data.bake import bake
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.vocabulary import Vocabulary
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.lib import LiB
from tests.training import tiny


def test_what_tokens_cost_by_their_frequencies(tmp_path):
    made = tiny.corpus(tmp_path)
    data, units = (Data(bake(made, recipe, str(tmp_path / "cache")), 32, 4) for recipe in (ByteTokenizer(), LiB(300)))
    values = Vocabulary()(None, None, data)
    counts = collections.Counter(b"".join(data.baked.documents("test")))
    total = sum(counts.values())
    assert values["unigram_bpb"] == pytest.approx(sum(n * math.log2(total / n) for n in counts.values()) / total)
    assert values["types"] == pytest.approx(100 * len(counts) / 254) and values["phrases"] == 0
    longer = Vocabulary()(None, None, units)
    assert longer["unigram_bpb"] < values["unigram_bpb"] and longer["phrases"] > 0
