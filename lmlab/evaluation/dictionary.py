"""Models of patterns (T-FREE) asked for words: with the dictionary that text is stored in, and with a larger one."""

import dataclasses
import math
from typing import Any

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data, bits_per_byte
from lmlab.models.t_free import dictionary
from lmlab.text.whole_words import WordDictionary
from lmlab.text.trigrams import Trigrams, table_of

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclasses.dataclass(frozen=True)
class WithDictionary:
    """`evaluators` of the distribution over the dictionary's ids, at the temperature that is best for excerpts of the
    validation split.

    Bits per byte over a dictionary that spells other words in bytes are a code of the text as those of subwords are.
    Rows are not independent, so that at temperature 1 a word's rows are counted as if each were further evidence.
    `larger`: the same text, and model, with a dictionary of so many times the ids, counted in the same training text: its
    further words were never asked for.
    """

    trigrams: Trigrams
    evaluators: tuple[Any, ...] = (BitsPerByte("test"),)
    split: str = "test"
    max_bytes: int = 100_000
    larger: int = 4
    count_bytes: int = 20_000_000

    def __call__(self, model, params, data):
        """What the evaluators say, and {"pattern_bpb": bits of the patterns per byte, without any dictionary; "temperature";
        "raw_bpb": at temperature 1; "own_bpb": at the chosen one; "larger_bpb"; "own_bytes_per_token",
        "larger_bytes_per_token"}: of excerpts."""
        tokenizer = data.baked.tokenizer
        own = self._excerpts(data, self.split)

        def score(texts, tokenizer, temperature):
            stream = stream_of(texts, tokenizer)
            variables = params | dictionary(table_of(self.trigrams, tokenizer), model.rows, temperature)
            words = model.clone(vocab_size=tokenizer.vocab_size)
            return bits_per_byte(words, variables, Windows(stream, data.length, tokenizer), data)[0]

        held_out = self._excerpts(data, "validation")
        temperature = min(TEMPERATURES, key=lambda t: score(held_out, tokenizer, t))
        larger = self._larger(data.baked)
        values = {
            "pattern_bpb": bits_per_byte(model, params, data.windows_of(stream_of(own, tokenizer)), data)[0],
            "temperature": temperature,
            "raw_bpb": score(own, tokenizer, 1.0),
            "own_bpb": score(own, tokenizer, temperature),
            "larger_bpb": score(own, larger, temperature),
        }
        for name, which in (("own", tokenizer), ("larger", larger)):
            values[f"{name}_bytes_per_token"] = sum(map(len, own)) / sum(len(which.encode(text)) for text in own)
        variables = params | dictionary(table_of(self.trigrams, tokenizer), model.rows, temperature)
        for evaluator in self.evaluators:
            values |= evaluator(model, variables, data)
        return values

    def _excerpts(self, data: Data, split):
        documents = list(data.baked.documents(split))
        share = max(1, math.ceil(self.max_bytes / len(documents)))
        return [document[:share] for document in documents]

    def _larger(self, baked):
        """The dictionary of `larger` times the ids, or of as many as the first `count_bytes` of the training text have."""
        tokenizer, seen, documents = baked.tokenizer, 0, []
        for document in baked.documents("train"):
            documents.append(document)
            seen += len(document)
            if seen >= self.count_bytes:
                break
        recipe = WordDictionary(self.larger * tokenizer.vocab_size, tokenizer.bytes_per_token, tokenizer.longest)
        return recipe.of_at_most(documents)
