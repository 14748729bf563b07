"""Does a model know the characters of words? The right answer's probability against wrong ones', whatever the
tokens."""

import dataclasses

import numpy as np

from lmlab.data.character_tasks import cute_questions, library_words, made_questions
from lmlab.errors import UserError
from lmlab.evaluation.scoring import score

PLACES = ("place", "nth")  # tasks about where a character stands


def text_nats(model, params, tokenizer, texts, length, batch_size):
    """float64 [texts]: -log p of each, as its own encoding behind BOS. UserError for a text longer than `length`
    tokens."""
    encoded, lengths = tokenizer.encode_batch(texts), tokenizer.token_lengths()
    longest = max(map(len, encoded))
    if longest > length:
        raise UserError(f"A text of {longest} tokens does not fit into rows of {length}.")
    length = min(length, -(-longest // 64) * 64)  # questions are short, and equal shapes compile once
    annotate = getattr(tokenizer, "annotate", lambda batch: {})
    nats = []
    for at in range(0, len(texts), batch_size):
        names = ("tokens", "targets", "segment_ids", "target_bytes")
        batch = {name: np.zeros((batch_size, length), np.int32) for name in names}
        batch["weights"] = np.zeros((batch_size, length), np.float32)
        group = encoded[at : at + batch_size]
        for row, ids in enumerate(group):
            n = len(ids)
            batch["tokens"][row, :n] = [tokenizer.bos, *ids[:-1]]
            batch["targets"][row, :n] = ids
            batch["segment_ids"][row, :n] = batch["weights"][row, :n] = 1
            batch["target_bytes"][row, :n] = lengths[ids]
        nats.append(score(model, params, batch | annotate(batch)).nats_BL[: len(group)].sum(axis=1, dtype=np.float64))
    return np.concatenate(nats)


@dataclasses.dataclass(frozen=True)
class CharacterTasks:
    """Accuracy on questions about characters: of the answers to a question, is the right one the likeliest?

    The text that is scored is `shots` answered questions of the same task, the question and an answer; what is before
    the answer is the same for all, so that the likeliest text has the likeliest answer. Fewer are shown where a row is
    too short. `path`: a folder of CUTE's files; None: questions made about words of the standard library that
    `CharacterTaskText` does not train on.
    """

    path: str | None = None
    questions: int = 40  # of each task
    shots: int = 3
    seed: int = 0
    split: str = "test"

    def check(self, run):
        """UserError, before any training, if there are no files of CUTE in the folder or one is damaged."""
        if self.path is not None:
            tasks = cute_questions(self.path, self.questions + self.shots, np.random.default_rng(self.seed))
            for task, found in tasks.items():
                if len(found) <= self.shots:
                    raise UserError(f"CUTE's task {task!r} has {len(found)} questions here, of which {self.shots} are shown.")

    def __call__(self, model, params, data):
        """{"characters/<task>": % right, "characters": their mean, "characters_chance": of guessing,
        "characters_unasked": the mean where the next word's question stands before a word's answers, which is what their
        form gives away; "token_length": correlation of being right about places (about anything, where no task asks for
        these) with the bytes of the longest token of the word (0 where all are alike)}; nothing for a model that does
        not continue a text."""
        if not data.corruption.continues:
            return {}
        rng, tokenizer = np.random.default_rng(self.seed), data.baked.tokenizer
        count = self.questions + self.shots
        made = self.path is None
        tasks = made_questions(library_words()[self.split], count, rng) if made else cute_questions(self.path, count, rng)
        asked = [(found[: self.shots], question) for found in tasks.values() for question in found[self.shots :]]
        unasked = [
            (found[: self.shots], question._replace(prompt=other.prompt))
            for found in tasks.values()
            for question, other in zip(found[self.shots :], [*found[self.shots + 1 :], found[self.shots]], strict=True)
        ]
        right, by_form = (self._right(questions, model, params, data) for questions in (asked, unasked))
        names = np.array([question.task for _, question in asked])
        unasked_right = [100 * float(by_form[names == task].mean()) for task in tasks]
        described = self._describe([question for _, question in asked], right, tokenizer)
        return described | {"characters_unasked": float(np.mean(unasked_right))}

    def _right(self, questions, model, params, data):
        """bool [questions]: the right answer, which comes first, is likelier than every other, not as likely."""
        texts, owners = [], []
        for i, (shown, question) in enumerate(questions):
            texts += self._texts(question, shown, data.baked.tokenizer, data.length)
            owners += [i] * len(question.answers)
        nats = text_nats(model, params, data.baked.tokenizer, texts, data.length, data.batch_size)
        owners = np.array(owners)
        return np.array([bool(nats[owners == i][0] < nats[owners == i][1:].min()) for i in range(len(questions))])

    def _texts(self, question, shown, tokenizer, length):
        """The question with each answer, behind as many shown ones as fit for all."""
        for n in range(len(shown) + 1):
            before = b"".join(q.prompt + q.answers[0] for q in shown[n:]) + question.prompt
            texts = [before + answer for answer in question.answers]
            if max(map(len, tokenizer.encode_batch(texts))) <= length:
                return texts
        raise UserError(f"Rows of {length} tokens are too short for a question about characters.")

    def _describe(self, asked, right, tokenizer):
        names = np.array([q.task for q in asked])
        accuracy = {f"characters/{t}": 100 * float(right[names == t].mean()) for t in dict.fromkeys(names.tolist())}
        chance = {t: np.mean([1 / len(q.answers) for q in asked if q.task == t]) for t in dict.fromkeys(names.tolist())}
        lengths = tokenizer.token_lengths()
        longest = np.array([lengths[tokenizer.encode(b" " + q.word)].max() for q in asked], float)
        if (places := np.isin(names, PLACES)).any():
            longest, right = longest[places], right[places]
        varies = longest.std() > 0 and right.std() > 0
        return accuracy | {
            "characters": float(np.mean(list(accuracy.values()))),
            "characters_chance": 100 * float(np.mean(list(chance.values()))),
            "token_length": float(np.corrcoef(longest, right)[0, 1]) if varies else 0.0,
        }
