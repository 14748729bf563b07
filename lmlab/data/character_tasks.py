"""Questions about the characters of words, with a right answer and wrong ones: made here, or read from CUTE's files.

After CharBench (counts and places of characters), the curse of tokenization (the n-th character, letters put out of
order) and CUTE (spelling, containing, inserting, deleting, substituting, swapping).
"""

import collections
import dataclasses
import functools
import os
import re
from typing import NamedTuple

import numpy as np

from lmlab.data.corpora import Document, read_file, split_of
from lmlab.data.library_parts import LibraryPart
from lmlab.errors import UserError

WORD = re.compile(rb"(?<![a-zA-Z])[a-z]{4,10}(?![a-zA-Z])")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Question(NamedTuple):
    """`prompt` ends in ":"; every answer begins with a space and ends its line. `answers[0]` is right. `word`: asked
    about."""

    task: str
    prompt: bytes
    answers: tuple[bytes, ...]
    word: bytes


@functools.lru_cache(maxsize=4)
def library_words(max_bytes=4_000_000):
    """{"train", "validation", "test": words}: those that occur twice or more in the standard library's prose, the most
    common first, split by the word."""
    counts = collections.Counter(word for d in LibraryPart(max_bytes).documents() for word in WORD.findall(d.data))
    words = {"train": [], "validation": [], "test": []}
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if count > 1:
            words[split_of(word, 0.05, 0.2)].append(word.decode())
    return words


def _others(right, candidates, count=3):
    """The first `count` different candidates that are not right."""
    return list(dict.fromkeys(c for c in candidates if c != right))[:count]


def misspelled(text, rng):
    """Endless near misses of a text: two neighbours exchanged, or a letter replaced by another or by one of its own.
    All are as long as it is: a shorter answer is likelier to a model that knows nothing."""
    while True:
        i, kind = int(rng.integers(len(text))), int(rng.integers(3))
        if kind == 0 and i + 1 < len(text):
            yield text[:i] + text[i + 1] + text[i] + text[i + 2 :]
        elif kind == 1:
            yield text[:i] + text[rng.integers(len(text))] + text[i + 1 :]
        else:
            yield text[:i] + LETTERS[rng.integers(26)] + text[i + 1 :]


def _near(right, rng):
    return _others(right, [c for _, c in zip(range(60), misspelled(right, rng), strict=False)])


def _spaced(text):
    return " ".join(text)


def _letter(word, rng):
    return word[rng.integers(len(word))]


def _absent(word, rng):
    return next(c for c in (LETTERS[rng.integers(26)] for _ in range(1000)) if c not in word)


def _numbers(right, most, rng):
    return [str(n) for n in _others(right, rng.permutation(np.arange(most + 1)).tolist())]


def _spell(word, rng):
    return f"spell {word}", _spaced(word), [_spaced(w) for w in _near(word, rng)]


def _unspell(word, rng):
    return f"join {_spaced(word)}", word, _near(word, rng)


def _contains(word, rng):
    inside = rng.random() < 0.5
    letter = _letter(word, rng) if inside else _absent(word, rng)
    return f"is {letter} in {word}", ("no", "yes")[inside], [("yes", "no")[inside]]


def _insert(word, rng):
    letter, at = LETTERS[rng.integers(26)], _letter(word, rng)
    right = word.replace(at, at + letter)
    return f"put {letter} behind {at} in {word}", right, _near(right, rng)


def _delete(word, rng):
    letter = _letter(word, rng)
    right = word.replace(letter, "")
    return f"drop {letter} from {word}", right, _near(right, rng)


def _substitute(word, rng):
    old, new = _letter(word, rng), _absent(word, rng)
    right = word.replace(old, new)
    return f"{new} for {old} in {word}", right, _near(right, rng)


def _swap(word, rng):
    one = _letter(word, rng)
    two = _letter([c for c in word if c != one], rng)
    right = word.translate(str.maketrans({one: two, two: one}))
    return f"swap {one} and {two} in {word}", right, _near(right, rng)


def _count(word, rng):
    letter = _letter(word, rng) if rng.random() < 0.8 else _absent(word, rng)
    right = word.count(letter)
    return f"how many {letter} in {word}", str(right), _numbers(right, 3, rng)


def _place(word, rng):
    letter = _letter(word, rng)
    right = word.index(letter) + 1
    return f"where is {letter} in {word}", str(right), _numbers(right, len(word), rng)


def _nth(word, rng):
    place = int(rng.integers(len(word)))
    return f"letter {place + 1} of {word}", word[place], _others(word[place], [*rng.permutation(list(word)), *LETTERS])


TASKS = {
    "spell": _spell, "join": _unspell, "contains": _contains, "insert": _insert, "delete": _delete,
    "substitute": _substitute, "swap": _swap, "count": _count, "place": _place, "nth": _nth,
}


def make_question(task, word, rng):
    """A `Question` of one of `TASKS` about a word of two different letters or more."""
    asked, right, wrong = TASKS[task](word, rng)
    return question(task, asked, right, wrong, word)


def question(task, asked, right, wrong, word):
    """A `Question` from its texts."""
    return Question(task, f"{asked}:".encode(), tuple(f" {a}\n".encode() for a in (right, *wrong)), word.encode())


def made_questions(words, count, rng):
    """{task: `count` questions about these words}."""
    usable = [w for w in words if len(set(w)) > 2]
    if not usable:
        raise UserError("There is no word of three different letters to ask about.")
    return {t: [make_question(t, usable[rng.integers(len(usable))], rng) for _ in range(count)] for t in TASKS}


CUTE = {  # task: (words of the question, column of the label's rivals or None)
    "spell": "spell {0}", "spell_inverse": "join {0}", "contains_char": "is {0} in {1}", "contains_word": "is {0} in {1}",
    "orth": "spelled like {0}, {1} or {2}", "sem": "means the same as {0}, {1} or {2}",
    "ins_char": "put {0} behind {1} in {2}", "ins_word": "put {0} behind {1} in {2}",
    "del_char": "drop {0} from {1}", "del_word": "drop {0} from {1}",
    "sub_char": "{1} for {0} in {2}", "sub_word": "{1} for {0} in {2}",
    "swap_char": "swap {0} and {1} in {2}", "swap_word": "swap {0} and {1} in {2}",
}


def cute_questions(path, count, rng):
    """{task: up to `count` questions} of CUTE's `<task>.tsv` in the folder `path`. Its rows give a label alone; wrong
    answers are the other choice where there are two, and else near misses of the label. UserError for a folder that has
    none."""
    found = {}
    for task, form in CUTE.items():
        file = os.path.join(path, f"{task}.tsv")
        if os.path.exists(file):
            rows = [line.split("\t") for line in read_file(file).decode("utf-8", "replace").splitlines()[1:] if line.strip()]
            chosen = [rows[i] for i in sorted(rng.permutation(len(rows))[:count])]
            try:
                found[task] = [_cute_question(task, form, row, rng) for row in chosen]
            except (IndexError, ValueError) as error:
                raise UserError(f"{file} is no table of CUTE: a row has too few columns.") from error
    if not found:
        raise UserError(f"There are no files of CUTE, such as spell.tsv, in {path}.")
    return found


def _cute_question(task, form, row, rng):
    *inputs, label = row
    if task.startswith("contains"):
        wrong = ["No" if label == "Yes" else "Yes"]
    elif task in ("orth", "sem"):
        wrong = [word for word in inputs[1:] if word != label]
    elif task == "spell":
        wrong = [_spaced(w) for w in _near(label.replace(" ", ""), rng)]
    elif task.endswith("_word"):
        wrong = _others(label, [" ".join(rng.permutation(label.split())) for _ in range(20)]) or _near(label, rng)
    else:
        wrong = _near(label, rng)
    return question(task, form.format(*inputs), label, wrong, inputs[-1])


@dataclasses.dataclass(frozen=True)
class CharacterTaskText:
    """Answered questions, to learn the tasks from: `count` documents of `lines` questions each, of one task, about
    words of the standard library that the test does not ask about. Every tenth document is for validation, about other
    words, and for test in turn."""

    synthetic = True

    count: int = 2000
    lines: int = 12
    validation: float = 0.1  # as the numbers are split; not to be changed
    test: float = 0.1

    def documents(self):
        """Yields every document once."""
        words, tasks = library_words(), list(TASKS)
        usable = {split: [w for w in found if len(set(w)) > 2] for split, found in words.items()}
        for i in range(self.count):
            split = {8: "validation", 9: "test"}.get(i % 10, "train")
            rng = np.random.default_rng((0, i))
            task, of = tasks[i // 10 % len(tasks)], usable[split]
            asked = [make_question(task, of[rng.integers(len(of))], rng) for _ in range(self.lines)]
            yield Document(f"{task} {i}", b"".join(q.prompt + q.answers[0] for q in asked), split)

    def fingerprint(self):
        """Names the baked text: changes with the words that there are."""
        return f"charactertasks-{self.count}-{self.lines}-{LibraryPart(4_000_000).fingerprint()}"
