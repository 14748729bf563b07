"""Words and bytes round-trip everything; patterns are a function of the word, and share what they should."""

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.text.whole_words import WordDictionary, to_bytes, words
from lmlab.text.trigrams import Trigrams

TEXT = "The cat's  12 mats:\n\n    naïve_café 世界 🙂, THE Cat unrelatednesses\t\r\n".encode() + b"\xfe\xff raw \x00"
TRIGRAMS = Trigrams(4096, 8, 3, 12)


@pytest.fixture(scope="module")
def tokenizer():
    return WordDictionary(272, 3.0, 12).train([TEXT * 3, b"the the The"])


@pytest.mark.parametrize("data", [TEXT, b"", b" ", b"\xff", bytes(range(256)), "ﬁ\u2028 \u00a0x".encode()])
def test_every_byte_string_round_trips(tokenizer, data):
    assert b"".join(map(to_bytes, words(data, 12))) == data
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data and (ids < tokenizer.bos).all()
    spans = tokenizer.byte_spans(ids)
    assert all(data[a:b] == tokenizer.token_bytes(int(i)) for i, (a, b) in zip(ids, spans))


def test_words_are_letters_digits_and_marks_with_the_space_before_them():
    assert words(b"The cat's  12\n\n  x_y", 12) == ["The", " cat", "'", "s", " ", " 1", "2", "\n\n ", " x", "_", "y"]
    assert words(b"unrelatednesses", 12) == ["unrelatednes", "ses"]


def test_known_words_are_one_token_and_others_their_bytes(tokenizer):
    assert len(tokenizer.encode(b" naive")) == 6 and len(tokenizer.encode(" naïve".encode())) == 1
    assert len(set(tokenizer.words)) == len(tokenizer.words) and all(len(to_bytes(w)) > 1 for w in tokenizer.words)


def test_a_dictionary_is_saved_and_read(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "d.json")
    recipe = WordDictionary(272, 3.0, 12)
    assert recipe.load(tmp_path / "d.json") == tokenizer
    with pytest.raises(UserError, match="does not hold a dictionary of 300"):
        WordDictionary(300).load(tmp_path / "d.json")
    (tmp_path / "e.json").write_text("no")
    with pytest.raises(UserError, match="not a readable dictionary"):
        recipe.load(tmp_path / "e.json")


def test_bad_input():
    with pytest.raises(UserError, match="too small for a dictionary of 5000: it yields only"):
        WordDictionary(5000).train([TEXT])
    with pytest.raises(UserError, match="at least 258"):
        WordDictionary(100)
    with pytest.raises(UserError, match="no more lowered"):
        Trigrams(64, 4, 5)
    with pytest.raises(UserError, match="patterns only 4"):
        Trigrams(64, 4, 2, 4).table(WordDictionary(272, 3.0, 12).train([TEXT * 3]))


def test_patterns_never_change():
    """Of this machine, run and version alike: models that are kept depend on it."""
    assert Trigrams(1000, 3, 1).trigram("cat") == [156, 711, 600]


def test_ways_to_write_a_word_share_the_lowered_rows():
    """k of m rows of every trigram, and by chance a few more."""
    lower, upper = (set(TRIGRAMS.pattern(word).tolist()) for word in (" house", " HOUSE"))
    assert 3 * 5 - 1 <= len(lower & upper) <= 3 * 5 + 2
    assert 8 * 5 - 3 <= len(lower) <= 8 * 5


def test_a_word_without_its_space_differs_in_one_trigram():
    apart, joined = (set(TRIGRAMS.pattern(word).tolist()) for word in (" house", "house"))
    assert 8 * 4 - 2 <= len(apart & joined) <= 8 * 4 + 2 and apart != joined


def test_every_id_has_a_pattern_of_its_own(tokenizer):
    table = TRIGRAMS.table(tokenizer)
    assert table.shape == (tokenizer.vocab_size, TRIGRAMS.active) and table.max() < 4096
    assert len({row.tobytes() for row in table}) == len(table)
    assert (np.sort(np.where(table < 0, 9999, table), axis=1) == np.where(table < 0, 9999, table)).all()
    number = list(tokenizer.words).index(" raw") + 256
    np.testing.assert_array_equal(table[number][table[number] >= 0], TRIGRAMS.pattern(" raw"))
