"""A uniform guess costs the same number of bits for every token."""

import math

import pytest

from lmlab.data.bake import bake
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.code_length import CodeLength
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.equal_info import EqualInfo
from tests.training import tiny


def test_bytes_cost_eight_bits_and_windows_theirs(tmp_path):
    made = tiny.corpus(tmp_path)
    data = [Data(bake(made, recipe, str(tmp_path / "cache")), 32, 4) for recipe in (ByteTokenizer(), EqualInfo(10, 2))]
    plain, windows = (CodeLength()(None, None, of)["uniform_bpb"] for of in data)
    assert plain == pytest.approx(math.log2(254))
    texts = list(data[1].baked.documents("test"))
    per = sum(len(data[1].baked.tokenizer.encode(text)) for text in texts) / sum(map(len, texts))
    assert windows == pytest.approx(10 * per)
