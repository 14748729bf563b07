"""Less is Better: exact on every byte string, greedy, and its units are those that shorten the text."""

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.text.lib import LiB, LiBTokenizer, cut, learn

TEXT = ("the cat sat on the mat\nand the dog sat under it; naïve 世界\n" * 60).encode()


@pytest.fixture(scope="module")
def tokenizer():
    return LiB(290, 3.0, 12).train([TEXT])


@pytest.mark.parametrize("data", [TEXT, b"", b"x", bytes(range(256)), b"\xff the \xfe", "naïve".encode()[:4]])
def test_every_byte_string_round_trips(tokenizer, data):
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data and (ids < tokenizer.bos).all()
    spans = tokenizer.byte_spans(ids)
    assert all(data[a:b] == tokenizer.token_bytes(int(i)) for i, (a, b) in zip(ids, spans))


def test_text_is_cut_into_the_longest_units_from_left_to_right():
    tokenizer = LiBTokenizer((b"ab", b"abcd", b"cde", b".*", b"\n\n"))
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode(b"abcdeabce.*\n\n\n")] == [
        b"abcd", b"e", b"ab", b"c", b"e", b".*", b"\n\n", b"\n"
    ]  # fmt: skip
    rng, units = np.random.default_rng(0), {b"aa", b"aba", b"bb", b"babb", b"aabab"}
    tokenizer = LiBTokenizer(tuple(units))
    for _ in range(20):
        data = bytes(rng.integers(97, 99, 40).tolist())
        assert [tokenizer.token_bytes(i) for i in tokenizer.encode(data)] == cut(data, units, 5)
    assert cut(b"abab", {b"ab", b"aba"}, 3, without=b"aba") == [b"ab", b"ab"]


def test_units_shorten_the_text_and_go_over_words(tokenizer):
    assert len(tokenizer.encode(TEXT)) < 0.35 * len(TEXT)
    assert any(b" " in unit.strip() for unit in tokenizer.units) and max(map(len, tokenizer.units)) <= 12


def test_what_is_of_no_use_is_forgotten():
    """Of two texts the second has nothing of the first, whose units leave the lexicon."""
    first, second = (bytes(np.random.default_rng(s).integers(a, a + 8, 3000).tolist()) for s, a in ((0, 65), (1, 97)))
    units = learn([first.replace(b"A", b"\n"), *[second.replace(b"a", b"\n")] * 6], 20, 8, 10**6)
    assert sum(unit[0] >= 97 for unit in units) > sum(65 <= unit[0] < 91 for unit in units)


def test_learning_is_repeatable(tokenizer):
    assert LiB(290, 3.0, 12).train([TEXT]) == tokenizer


def test_a_lexicon_is_saved_and_read(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "l.json")
    assert LiB(290, 3.0, 12).load(tmp_path / "l.json") == tokenizer
    with pytest.raises(UserError, match="does not hold a lexicon of 300"):
        LiB(300).load(tmp_path / "l.json")
    with pytest.raises(UserError, match="no readable lexicon"):
        LiB(300).load(tmp_path / "none.json")


def test_bad_input():
    with pytest.raises(UserError, match="too small for a lexicon of 5000: it yields only"):
        LiB(5000).train([TEXT])
    with pytest.raises(UserError, match="at least 258"):
        LiB(257)
