"""Numbers in groups of two or three, and back."""

import itertools

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.text.digits import DigitGroups, group

TEXT = bytes(range(256)) + "é 1234567+89=07, 1,234,567 ٣٤".encode()


@pytest.mark.parametrize("start, size", [("left", 3), ("right", 3), ("left", 2), ("right", 2)])
def test_every_byte_comes_back(start, size):
    tokenizer = DigitGroups(start, size)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT == b"".join(TEXT[a:b] for a, b in tokenizer.byte_spans(ids))
    assert [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)] == tokenizer.token_lengths().tolist()


def test_groups_from_either_side():
    assert group(b"1234567", "left") == [b"123", b"456", b"7"]
    assert group(b"1234567", "right") == [b"1", b"234", b"567"]
    assert group(b"1234567", "right", 2) == [b"1", b"23", b"45", b"67"]
    for start, size in itertools.product(("left", "right"), (2, 3)):
        for digits in (b"7", b"07", b"123", b"123456"):
            tokenizer = DigitGroups(start, size)
            assert [tokenizer.token_bytes(i) for i in tokenizer.encode(digits)] == group(digits, start, size)
    with pytest.raises(UserError, match="by 2 or 3, not by 4"):
        DigitGroups("left", 4)
    with pytest.raises(UserError, match="from the left or the right"):
        DigitGroups("middle")


def test_commas_make_groups_from_the_left_those_from_the_right():
    left, right = DigitGroups("left"), DigitGroups("right")
    with_commas = [left.token_bytes(i) for i in left.encode(b"1,234,567") if left.token_bytes(i) != b","]
    assert with_commas == [right.token_bytes(i) for i in right.encode(b"1234567")]
    assert np.array_equal(left.encode(b"1,234,567"), right.encode(b"1,234,567"))
