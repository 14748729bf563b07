"""Questions whose answers can be checked, and models that know them or do not."""

import jax
import numpy as np
import pytest

from lmlab.data.bake import bake, stream_of
from lmlab.data.batches import Windows
from lmlab.data.character_tasks import (
    TASKS, CharacterTaskText, cute_questions, library_words, made_questions, make_question,
)
from lmlab.data.corruptions import SpanCorruption
from lmlab.errors import UserError
from lmlab.evaluation import character_tasks
from lmlab.evaluation.bits_per_byte import Data, bits_per_byte
from lmlab.evaluation.character_tasks import CharacterTasks, text_nats
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from tests.training import tiny


def test_answers_are_right():
    rng = np.random.default_rng(0)
    for word in ("letter", "banana", "quick"):
        for _ in range(20):
            got = {task: make_question(task, word, rng) for task in TASKS}
            asked = {task: q.prompt[:-1].decode().split() for task, q in got.items()}
            right = {task: q.answers[0].decode()[1:-1] for task, q in got.items()}
            assert right["spell"] == " ".join(word) and right["join"] == word
            assert right["contains"] == ("yes" if asked["contains"][1] in word else "no")
            assert right["count"] == str(word.count(asked["count"][2]))
            assert word.index(asked["place"][2]) == int(right["place"]) - 1
            assert right["nth"] == word[int(asked["nth"][1]) - 1]
            assert right["delete"] == word.replace(asked["delete"][1], "")
            assert right["insert"].count(asked["insert"][3] + asked["insert"][1]) >= word.count(asked["insert"][3])
            assert sorted(right["swap"]) != [] and len(right["swap"]) == len(word)
            for q in got.values():
                assert q.task == "contains" or len(set(map(len, q.answers))) == 1
                assert len(set(q.answers)) == len(q.answers) >= 2
                assert all(a[:1] == b" " and a[-1:] == b"\n" for a in q.answers)


def test_words_asked_about_are_held_out():
    words = library_words()
    assert len(words["test"]) > 100 and not set(words["test"]) & set(words["train"])
    documents = list(CharacterTaskText(40, 5).documents())
    assert {d.split for d in documents} == {"train", "validation", "test"}
    train = b" ".join(d.data for d in documents if d.split == "train" and d.name.startswith("spell"))
    spelled = {line.split(b":")[0].split()[1].decode() for line in train.splitlines() if line.startswith(b"spell")}
    assert spelled and spelled <= set(words["train"])


def test_files_of_cute(tmp_path):
    (tmp_path / "spell.tsv").write_text("input1\tlabel\nthe\tt h e\nand\ta n d\n")
    (tmp_path / "contains_char.tsv").write_text("input1\tinput2\tlabel\nl\tthe\tNo\nn\tand\tYes\n")
    (tmp_path / "sem.tsv").write_text("input1\tinput2\tinput3\tlabel\nis\tgis\tare\tare\n")
    (tmp_path / "sub_word.tsv").write_text("input1\tinput2\tinput3\tlabel\nThe\tplan\tThe cat sat.\tplan cat sat.\n")
    found = cute_questions(str(tmp_path), 5, np.random.default_rng(0))
    assert found["spell"][0].prompt == b"spell the:" and found["spell"][0].answers[0] == b" t h e\n"
    assert [q.answers for q in found["contains_char"]] == [(b" No\n", b" Yes\n"), (b" Yes\n", b" No\n")]
    assert found["sem"][0].answers == (b" are\n", b" gis\n")
    assert found["sub_word"][0].prompt == b"plan for The in The cat sat.:" and len(found["sub_word"][0].answers) == 4
    with pytest.raises(UserError, match="no files of CUTE"):
        cute_questions(str(tmp_path / "no"), 5, np.random.default_rng(0))


def test_a_damaged_file_of_cute_is_named(tmp_path):
    (tmp_path / "orth.tsv").write_text("a\tb\tc\tlabel\nonly one column\n")
    with pytest.raises(UserError, match=r"orth.tsv is no table of CUTE"):
        CharacterTasks(str(tmp_path)).check(None)
    with pytest.raises(UserError, match="There are no files of CUTE"):
        CharacterTasks(str(tmp_path / "gone")).check(None)


@pytest.mark.parametrize("recipe", [ByteTokenizer(), BPE(300, 2.0)], ids=["bytes", "bpe"])
def test_texts_are_scored_as_documents_are(recipe, tmp_path):
    """The sum over single texts is that of the same documents, without their ends."""
    model = LanguageModel(300, transformer(1, 32, 64, n_heads=2))
    data = Data(bake(tiny.corpus(tmp_path), recipe, str(tmp_path / "cache")), 64, 4)
    tokenizer, params = data.baked.tokenizer, init(model, jax.random.key(0))
    texts = [b"spell cat: c a t\n", b"the a of chunk", b"is x in y: no\n"]
    nats = text_nats(model, params, tokenizer, texts, 64, 2)
    for text, value in zip(texts, nats, strict=True):
        total = 0.0

        def see(batch, scores):
            nonlocal total
            total += float(scores.nats_BL[batch["target_bytes"] > 0].sum(dtype=np.float64))

        bits_per_byte(model, params, Windows(stream_of([text], tokenizer), 64, tokenizer), data, see)
        assert value == pytest.approx(total, rel=1e-5)
    with pytest.raises(UserError, match="does not fit into rows of 8"):
        text_nats(model, params, tokenizer, [b"0123456789" * 3], 8, 2)


def test_who_knows_the_answers_is_right_and_who_guesses_is_at_chance(tmp_path, monkeypatch):
    data = Data(bake(tiny.corpus(tmp_path), ByteTokenizer(), str(tmp_path / "cache")), 160, 4)
    words = library_words()["test"]
    right = {q.prompt + q.answers[0] for q in sum(made_questions(words, 23, np.random.default_rng(0)).values(), [])}

    def ask(nats):
        monkeypatch.setattr(character_tasks, "text_nats", lambda m, p, t, texts, *rest: np.array([nats(x) for x in texts]))
        return CharacterTasks(questions=20)(None, None, data)

    known = ask(lambda text: float(text.splitlines(keepends=True)[-1] not in right))
    assert known["characters"] == 100 and set(known) >= {f"characters/{task}" for task in TASKS}
    rng = np.random.default_rng(1)
    guessed = ask(lambda text: rng.random())
    assert abs(guessed["characters"] - guessed["characters_chance"]) < 12 and 25 <= guessed["characters_chance"] < 35
    assert known["token_length"] == 0  # bytes are all alike
    assert known["characters_unasked"] < 40
    # Who looks at the answers alone, here at their bytes' sum, is as right without the question.
    of_form = ask(lambda text: float(sum(text.splitlines()[-1].rpartition(b":")[2])))
    assert of_form["characters_unasked"] == of_form["characters"]


def test_rows_too_short_show_less_and_then_refuse(tmp_path, monkeypatch):
    baked = bake(tiny.corpus(tmp_path), ByteTokenizer(), str(tmp_path / "cache"))
    seen = []
    monkeypatch.setattr(character_tasks, "text_nats", lambda m, p, t, texts, *r: seen.extend(texts) or np.arange(len(texts)))
    CharacterTasks(questions=5)(None, None, Data(baked, 60, 4))
    assert max(map(len, seen)) <= 60 and min(t.count(b"\n") for t in seen) < 4
    with pytest.raises(UserError, match="Rows of 10 tokens are too short"):
        CharacterTasks(questions=2)(None, None, Data(baked, 10, 4))
    assert CharacterTasks()(None, None, Data(baked, 60, 4, SpanCorruption())) == {}
