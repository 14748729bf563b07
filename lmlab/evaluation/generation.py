"""How fast a trained model writes."""

import dataclasses
import statistics
import time

import jax
import numpy as np

from lmlab.decoding.generate import generate


@dataclasses.dataclass(frozen=True)
class Generation:
    """Bytes per second of cached generation behind the first bytes of documents of one split, `rows` at a time, the
    prompts' prefill included; median of `rounds` after one that compiles. The rows begin with each text of a mixture in
    turn: how fast a model writes depends on where its chunks start, and so on what it writes.
    """

    split: str = "test"
    rows: int = 16
    prompt: int = 128  # bytes
    new: int = 128  # bytes, or as many tokens as stand for so many
    rounds: int = 3

    def __call__(self, model, params, data):
        """{"generated_bytes_per_second": over all rows}."""
        tokenizer = data.baked.tokenizer
        texts = list(data.baked.texts(self.split).values()) or [list(data.baked.documents(self.split))]
        documents = [texts[i % len(texts)][i // len(texts) % len(texts[i % len(texts)])] for i in range(self.rows)]
        prompts = [np.concatenate([[tokenizer.bos], tokenizer.encode(d[: self.prompt])]) for d in documents]
        lengths, new, rates = tokenizer.token_lengths(), round(self.new / tokenizer.bytes_per_token), []
        for i in range(self.rounds + 1):
            data.check()
            began = time.perf_counter()
            tokens = generate(model, params, prompts, new, -1, jax.random.key(i))
            rates.append(int(lengths[tokens].sum()) / (time.perf_counter() - began))
        return {"generated_bytes_per_second": statistics.median(rates[1:])}
