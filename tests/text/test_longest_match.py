import pathlib

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.text import TokenizerFile
from lmlab.text.longest_match import LongestMatchTokenizer

WORLD = pathlib.Path(__file__).parents[3] / "shared/data/tokenizers/neox_rwkv/rwkv_vocab_v20230424.txt"
BYTES = [bytes([byte]) for byte in range(256)]


def written(tokens):
    """The list of these tokens, ids from 1, text as text where it is any."""

    def literal(data):
        try:
            return repr(data.decode())
        except UnicodeDecodeError:
            return repr(data)

    return "".join(f"{i} {literal(data)} {len(data)}\n" for i, data in enumerate(tokens, 1))


def in_file(folder, tokens):
    (folder / "list.txt").write_text(written(tokens), encoding="utf-8")
    return TokenizerFile(str(folder / "list.txt")).read()


def longest(data, tokens):
    """Greedily, trying every token at every place."""
    parts, at = [], 0
    while at < len(data):
        parts.append(max((t for t in tokens if data.startswith(t, at)), key=len))
        at += len(parts[-1])
    return parts


def test_takes_the_longest_token_at_every_place(tmp_path):
    rng = np.random.default_rng(0)
    more = {bytes(rng.choice(list(b"ab \xc3\xa9\x85"), size)) for size in range(2, 7) for _ in range(12)}
    tokens = [*BYTES, *sorted(more)]
    tokenizer = in_file(tmp_path, tokens)
    assert isinstance(tokenizer, LongestMatchTokenizer) and (tokenizer.bos, tokenizer.eos) == (0, 0)
    for _ in range(50):
        data = bytes(rng.choice(list(b"ab \xc3\xa9\x85"), rng.integers(40)))
        ids = tokenizer.encode(data)
        assert [tokenizer.token_bytes(i) for i in ids] == longest(data, tokens)
        assert tokenizer.decode(ids) == data
    everything = bytes(range(256)) + "漢字 naïve\r\n\x85\u2028'\"\\".encode()
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


def test_saved_and_read_again_it_is_the_same(tmp_path):
    tokenizer = in_file(tmp_path, [*BYTES, b" the", "é".encode(), b"'s \"q\""])
    tokenizer.save(tmp_path / "tokenizer.json")  # under the name that runs keep theirs
    again = TokenizerFile(str(tmp_path / "tokenizer.json")).read()
    assert again == tokenizer and again.fingerprint == tokenizer.fingerprint
    assert again.vocab_size == 260


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda text: text.replace("5 '\\x04' 1\n", ""), "no token for some single bytes"),
        (lambda text: text.replace("98 'a' 1", "98 'a' 2"), "Line 98 .* another number of bytes"),
        (lambda text: text.replace("98 'a' 1", "97 'a' 1"), "Line 98 .*an id twice"),
        (lambda text: text.replace("98 'a' 1", "98 print 1"), "Line 98"),
        (lambda text: text.replace("98 'a' 1", "98"), "Line 98"),
        (lambda text: text.replace("98 'a' 1", "1000000000000 'a' 1"), "256 tokens has an id of 1000000000000"),
        (lambda text: text.replace("98 'a' 1", "98 1 1"), "Line 98"),
    ],
)
def test_a_list_that_is_wrong_is_refused_in_a_sentence(tmp_path, change, sentence):
    path = tmp_path / "list.txt"
    path.write_text(change(written(BYTES)), encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        TokenizerFile(str(path)).read()


@pytest.mark.skipif(not WORLD.exists(), reason="the published vocabulary is not here")
def test_the_published_vocabulary():
    tokenizer = TokenizerFile(str(WORLD)).read()
    assert tokenizer.vocab_size == 65_530
    assert tokenizer.encode(b"Hello world").tolist() == [33155, 40213]
    data = bytes(range(256)) + "Grüße, 世界! \n\n\t  x = 1\r\n".encode()
    assert tokenizer.decode(tokenizer.encode(data)) == data
