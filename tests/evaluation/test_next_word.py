"""Words known, counted by hand for every kind of tokens."""

import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.evaluation import bits_per_byte
from lmlab.evaluation.next_word import BUCKETS, NextWord, right_words
from lmlab.evaluation.scoring import Scores
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.words import SpaceWords, UnicodeWords, Words
from tests.training import tiny

TEXT = "The cat, an été the  end".encode()
TOKENIZERS = [ByteTokenizer(), BPE(264), Words(SpaceWords(), 3), Words(UnicodeWords(), symbols=2)]


def known(tokenizer, wrong_at=(), ids_of=lambda t: t):
    """{word: whether known} where only the tokens that cover these bytes are wrong."""
    tokenizer = tokenizer.train([TEXT * 20])
    ids = np.append(tokenizer.encode(TEXT), tokenizer.eos)
    best = ids.copy()
    for i, (a, b) in enumerate(tokenizer.byte_spans(ids[:-1])):
        if any(a <= at < b for at in wrong_at):
            best[i] = ord("%")
    return [(word.decode(), right) for word, right in right_words(TEXT, ids, ids_of(best), tokenizer)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: type(t).__name__)
def test_a_word_is_known_if_all_of_it_is(tokenizer):
    words = ["The", "cat,", "an", "été", "the", "end"]
    assert known(tokenizer) == [(w, True) for w in words]
    assert known(tokenizer, [TEXT.index(b"at,"), TEXT.index(b"d", 20)]) == [(w, w not in ("cat,", "end")) for w in words]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: type(t).__name__)
def test_a_word_that_would_go_on_is_not_known(tokenizer):
    """Behind "an" a letter is expected: "an" is then the beginning of a longer word."""
    found = dict(known(tokenizer, [TEXT.index(b" \xc3")]))
    assert not found.pop("an")
    if not isinstance(tokenizer, BPE):  # there the space is of the next word's token
        assert all(found.values())


def test_the_end_of_a_word_must_be_known_too():
    tokenizer = Words(UnicodeWords())
    wrong = known(tokenizer, ids_of=lambda best: np.where(best == 256, ord("x"), best))
    assert [w for w, right in wrong if right] == []


def test_words_are_counted_by_how_common_they_are(tmp_path, monkeypatch):
    run = tiny.plain(tmp_path)
    baked = bake(run.corpus, run.tokenizer, str(tmp_path / "cache"))
    data = bits_per_byte.Data(baked, run.length, run.batch_size)

    def score(model, params, batch):
        letters = np.where(batch["targets"] == ord("w"), ord("x"), batch["targets"])  # never knows a w
        return Scores(np.zeros(letters.shape, np.float32), letters, ())

    monkeypatch.setattr(bits_per_byte, "score", score)
    values = NextWord(max_bytes=2000)(None, None, data)
    assert sum(values[f"next_word_share/{name}"] for name in BUCKETS) == pytest.approx(100)
    excerpts = [d[: 2000 // len(list(baked.documents("test")))] for d in baked.documents("test")]
    words = [w for d in excerpts for w in d.split()]
    assert values["next_word"] == pytest.approx(100 * sum(b"w" not in w for w in words) / len(words))
    train = [w for d in baked.documents("train") for w in d.split()]
    common = [w for w in words if train.count(w) >= 100]
    assert values["next_word_share/common"] == pytest.approx(100 * len(common) / len(words))
    assert values["next_word/common"] == pytest.approx(100 * sum(b"w" not in w for w in common) / len(common))
