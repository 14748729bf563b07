"""Equal-info windows: exact on every byte string, as many codes as bits allow, shorter where the model knows more."""

import json

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.text.arithmetic import compress, decompress
from lmlab.text.equal_info import EqualInfo, EqualInfoTokenizer, shares, strings_of
from lmlab.text.ngrams import ByteCounts

TRAIN = [("the cat sat on the mat and the dog sat under it; naïve 世界 " * 20).encode(), b"\xfe\xff raw"]
TEST = "the dog and the cat sat under 世界".encode()


@pytest.fixture(scope="module")
def tokenizer():
    return EqualInfo(12, 4).train(TRAIN)


def uniform(contexts):
    return np.full((len(contexts), 256), 1 / 256)


@pytest.mark.parametrize("data", [TEST, b"", b"x", TRAIN[0], bytes(range(256)) * 2, bytes(reversed(range(256)))])
def test_every_byte_string_round_trips(tokenizer, data):
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data and (ids < 2**12).all()
    spans = tokenizer.byte_spans(ids)
    assert all(data[a:b] == tokenizer.token_bytes(int(i)) for i, (a, b) in zip(ids, spans))
    for split in (1, 5):
        assert tokenizer.decode(tokenizer.encode(data[:split])) == data[:split]


def test_every_code_is_one_string_and_every_string_comes_back_as_its_code(tokenizer):
    assert len(set(tokenizer.strings)) == 2**12 and min(map(len, tokenizer.strings)) == 1
    for code in range(0, 2**12, 7):
        np.testing.assert_array_equal(tokenizer.encode(tokenizer.strings[code]), [code])


def test_a_window_ends_where_the_next_byte_has_no_code(tokenizer):
    ids = tokenizer.encode(TEST)
    spans = tokenizer.byte_spans(ids)
    for (a, b) in spans[:-1]:
        assert TEST[a:b] in tokenizer.strings and TEST[a : b + 1] not in tokenizer.strings


def test_a_likely_string_has_an_interval_of_its_probability():
    """2^bits p codes begin with it, but for what rounding and the ends of windows take."""
    counts = ByteCounts.of(TRAIN, 4)
    strings = strings_of(counts.next, 14)
    for string in (b"t", b"th", b"the"):
        p = np.prod([counts.next([string[:i]])[0, string[i]] for i in range(len(string))])
        begin = sum(s.startswith(string) for s in strings)
        assert begin == pytest.approx(p * (2**14 - 256), rel=0.05, abs=3)


def test_codes_are_ordered_as_arithmetic_codes_are(tokenizer):
    """Strings of neighbouring codes are neighbours: a prefix comes first, then what follows it, by the next byte."""
    assert list(tokenizer.strings) == sorted(tokenizer.strings)


def test_what_the_model_knows_makes_windows_longer():
    per = [len(TRAIN[0]) / len(EqualInfo(12, order).train(TRAIN).encode(TRAIN[0])) for order in (0, 1, 4)]
    assert 1 <= per[0] < 0.9 * per[1] < 0.8 * per[2]
    assert len(EqualInfo(16, 0).by(uniform).encode(TRAIN[0])) == pytest.approx(len(TRAIN[0]) / 2, rel=0.05)


def test_eight_bits_are_bytes():
    found = EqualInfo(8, 3).train(TRAIN)
    np.testing.assert_array_equal(found.encode(TEST), list(TEST))


def test_shares_sum_and_are_in_proportion():
    rng = np.random.default_rng(0)
    p, sizes = rng.random((20, 256)) ** 8, rng.integers(0, 5000, 20)
    given = shares(p, sizes)
    np.testing.assert_array_equal(given.sum(1), sizes)
    assert np.abs(given - p / p.sum(1, keepdims=True) * sizes[:, None]).max() < 1


def test_counts_give_probabilities_that_interpolate():
    counts = ByteCounts.of([b"abab", b"ac"], 2)
    p = counts.next([b"", b"a", b"zza", b"q"])
    np.testing.assert_allclose(p.sum(1), 1)
    unigram = (np.array([3, 2, 1]) + 3 / 256) / 9  # a, b and c among six bytes, three kinds
    np.testing.assert_allclose(p[0, 97:100], unigram)
    np.testing.assert_allclose(p[1, 97:100], (np.array([0, 2, 1]) + 2 * unigram) / 5)
    np.testing.assert_array_equal(p[1], p[2])
    np.testing.assert_array_equal(p[0], p[3])
    np.testing.assert_allclose(ByteCounts.of([b"abc"], 0).next([b"ab"]), 1 / 256)
    assert ByteCounts.of([b"\xff\xff\xff"], 3).next([b"\xff\xff"])[0, 255] > 0.5


def test_windows_of_a_neural_model_are_windows(tokenizer):
    """Any function from strings to probabilities is a model."""
    import jax

    from lmlab.models.build import transformer
    from lmlab.models.language_model import LanguageModel, init

    model = LanguageModel(256, transformer(1, 16, 32, 2))
    params = init(model, jax.random.key(0))
    forward = jax.jit(lambda tokens: jax.nn.softmax(4 * model.apply(params, tokens).logits))

    def next_bytes(strings):
        width = 16
        tokens = np.zeros((-(-len(strings) // 64) * 64, width), np.int32)
        for row, string in zip(tokens, strings):
            row[: len(string) + 1] = [254, *string]
        p = np.asarray(forward(tokens))
        return p[np.arange(len(strings)), [len(s) for s in strings]].astype(np.float64)

    made = EqualInfo(10).by(next_bytes)
    for data in (TEST, bytes(range(256))):
        assert made.decode(made.encode(data)) == data


def test_windows_are_saved_and_read(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "w.json")
    assert EqualInfo(12).load(tmp_path / "w.json") == tokenizer
    with pytest.raises(UserError, match="has 4096 windows, not the 1024 of 10 bits"):
        EqualInfo(10).load(tmp_path / "w.json")
    strings = json.loads((tmp_path / "w.json").read_text())
    strings[-1] = "qqq"
    (tmp_path / "w.json").write_text(json.dumps(strings))
    with pytest.raises(UserError, match="no equal-info windows"):
        EqualInfo(12).load(tmp_path / "w.json")
    with pytest.raises(UserError, match="no readable file"):
        EqualInfo(12).load(tmp_path / "none.json")


def test_bad_input():
    with pytest.raises(UserError, match="8 to 20 bits"):
        EqualInfo(7)
    with pytest.raises(UserError, match="no equal-info windows"):
        EqualInfoTokenizer((b"a", b"a"))


def test_a_text_coded_as_a_whole_comes_back_and_is_shorter_than_its_windows(tokenizer):
    pytest.importorskip("constriction")
    counts = ByteCounts.of(TRAIN, 4)
    data = TRAIN[0][:300] + bytes(range(256))
    code = compress(data, counts.next)
    assert decompress(code, len(data), counts.next) == data
    assert len(compress(b"", counts.next)) == 0 and decompress(compress(b"", counts.next), 0, counts.next) == b""
    assert 32 * len(compress(TRAIN[0], counts.next)) < 12 * len(tokenizer.encode(TRAIN[0]))


def test_without_the_library_one_sentence_says_so(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(UserError, match="needs the library constriction"):
        compress(b"x", uniform)
