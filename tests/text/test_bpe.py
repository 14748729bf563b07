import json

import numpy as np
import pytest

import lmlab.text.bpe as bpe
from lmlab.errors import UserError
from lmlab.text import BPE, BPETokenizer, train_bpe

TEXT = "The naïve façade of the café; 漢字仮名交じり文、привет мир! I'd say: it's 2026.\r\n\tdef f(x):\n    return x\n\n"
SYLLABLES = np.random.default_rng(0).choice(["ka", "ро", "né", "tis", "ömu", "li", "字", "ber"], (2000, 3))
DOCUMENTS = [(TEXT * 3 + " ".join(map("".join, SYLLABLES[i * 200 : i * 200 + 200]))).encode() for i in range(10)]
HARD = [
    b"",
    b"\xff",
    bytes(range(256)),
    "naïve".encode()[:3] + b"\xc3" + b" ok",
    "<bos> text that spells <eos>, <|endoftext|>".encode(),
    "e\u0301 \u0130 \ufb01 \u00a0\u2003 \x85 \x1c \ue000 🙂\U0010ffff".encode(),
    b"  leading,   runs \n\n  and trailing   ",
    "\ud800".encode("utf-8", "surrogatepass"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(DOCUMENTS, 400)


def test_round_trips_any_bytes(tokenizer):
    rng = np.random.default_rng(0)
    documents = HARD + DOCUMENTS + [rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in range(50)]
    for data, ids in zip(documents, tokenizer.encode_batch(documents), strict=True):
        assert tokenizer.decode(ids) == data
        assert np.array_equal(ids, tokenizer.encode(data))
        assert not len(ids) or (ids.min() >= 0 and ids.max() < tokenizer.bos)


def test_lengths_and_spans_cover_the_source_exactly(tokenizer):
    for data in HARD + DOCUMENTS:
        ids = tokenizer.encode(data)
        spans = tokenizer.byte_spans(ids)
        assert tokenizer.token_lengths()[ids].sum() == len(data)
        assert all(data[a:b] == tokenizer.token_bytes(int(i)) for i, (a, b) in zip(ids, spans, strict=True))
    assert tokenizer.token_lengths()[[tokenizer.bos, tokenizer.eos]].tolist() == [0, 0]


def test_vocabulary_is_distinct_and_as_large_as_asked(tokenizer):
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    assert tokenizer.vocab_size == 400 and (tokenizer.bos, tokenizer.eos) == (398, 399)
    assert len(set(tokens[:398])) == 398 and {bytes([b]) for b in range(256)} <= set(tokens)


def test_words_with_letters_of_several_bytes_become_single_tokens():
    tokenizer = train_bpe([" naïve façade привет 漢字".encode() * 50], 288)
    for word in (" naïve", " façade", " привет", " 漢字"):
        assert [tokenizer.token_bytes(int(i)) for i in tokenizer.encode(word.encode())] == [word.encode()]
    assert all(t.count(b" ") <= 1 for t in map(tokenizer.token_bytes, range(288)))  # no token spans two words


def test_tokens_keep_to_one_kind_of_character():
    text = " abc1234 x=y+12; don't  a\n\n    b é9"
    tokenizer = train_bpe([text.encode() * 200], 276)  # all merges there are
    assert b"|".join(map(tokenizer.token_bytes, tokenizer.encode(text.encode()).tolist())).decode() == (
        " abc|1234| x|=|y|+|12|;| don|'t| | a|\n\n   | b| é|9"
    )


def test_cutting_long_text_changes_no_token(tokenizer, monkeypatch):
    data = b"".join(DOCUMENTS) + "  \n x\u00a0 y\u2003 z\x1c \x85 end \n\n\n".encode() * 20
    whole = tokenizer.encode(data)
    monkeypatch.setattr(bpe, "_PIECE", 7)
    assert len(list(bpe._pieces(data.decode()))) > 100
    assert np.array_equal(tokenizer.encode(data), whole)


def test_training_is_deterministic_and_survives_the_disk(tokenizer, tmp_path):
    assert train_bpe(iter(DOCUMENTS), 400) == tokenizer
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = BPE(400).load(tmp_path / "tokenizer.json")
    assert loaded == tokenizer and loaded.fingerprint == tokenizer.fingerprint
    assert train_bpe(DOCUMENTS, 390).fingerprint != tokenizer.fingerprint
    with pytest.raises(UserError, match="400 ids, not the 500"):
        BPE(500).load(tmp_path / "tokenizer.json")


def test_corpus_too_small_for_the_vocabulary():
    with pytest.raises(UserError, match="too small for a BPE vocabulary of 400"):
        train_bpe([b"abc abc"], 400)
    with pytest.raises(UserError, match="at least 258"):
        train_bpe(DOCUMENTS, 257)


def test_refuses_a_file_that_would_lose_bytes(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    lossy = json.loads(tokenizer.definition) | {"normalizer": {"type": "Lowercase"}}
    path.write_text(json.dumps(lossy))
    with pytest.raises(UserError, match="does not give back the bytes"):
        BPETokenizer.load(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="not a readable tokenizer"):
        BPETokenizer.load(path)
    with pytest.raises(UserError, match="not a readable tokenizer"):
        BPETokenizer.load(tmp_path / "missing.json")
