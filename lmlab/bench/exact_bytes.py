"""What byte-level answers of a model of subwords cost over plain decoding: seconds per byte. `lmlab bench text` prints it.

Three ways write behind the same prompts, in turn: plain decoding of tokens; `write_tokens`, which draws a cover encoding of
the prompt and then only tokens that can follow; and the next-byte distribution at every byte of a true text, as sampling
bytes, ensembles and scores by byte need it, for one step of the model a byte where plain decoding takes one a token.
"""

import statistics
import time

import jax
import numpy as np

from lmlab.bench.train import SHAPE
from lmlab.data.corpora import StandardLibrary
from lmlab.decoding.exact_bytes import ExactBytes, write_tokens
from lmlab.decoding.generate import generate
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.text.bpe import train_bpe

PROMPT, NEW, VOCABULARY = 256, 256, 4096


def measure(batch=16, repeats=3, vocab_size=VOCABULARY, shape=SHAPE, prompt=PROMPT, new=NEW, max_bytes=4_000_000):
    """{"plain", "write_tokens", "next_bytes": seconds per byte and row, "step_ratio": of a step for a byte over one for a
    token, "bytes_per_token" of the text}: medians, after a round that compiles, of writing alone. Weights are random, and so is
    what the first two write; they are counted by the bytes that they wrote."""
    documents = [d.data for d in StandardLibrary(max_bytes).documents()]
    tokenizer = train_bpe(documents, vocab_size)
    model = LanguageModel(vocab_size, transformer(shape.n_layers, shape.d_model, shape.d_ff, shape.n_heads))
    params = init(model, jax.random.key(0))
    texts = [d[1000 : 1000 + prompt + new] for d in documents if len(d) > 1000 + prompt + new][:batch]
    tokens = round(len(texts) * (prompt + new) / sum(map(len, tokenizer.encode_batch(texts))), 3)
    prompts, count = [t[:prompt] for t in texts], round(new / tokens)
    ids = [np.concatenate([[tokenizer.bos], tokenizer.encode(p)]) for p in prompts]

    def plain(seed):
        def timed(tokens):
            start = time.perf_counter()
            out = generate(model, params, ids, tokens, -1, jax.random.key(seed))
            return time.perf_counter() - start, int(tokenizer.token_lengths()[out].sum())

        reading, first = timed(1)
        whole, written = timed(count + 1)
        return whole - reading, written - first

    def exact(write):
        """Seconds without those that reading the prompts takes, bytes."""
        texts_read = ExactBytes(model, params, tokenizer, prompts, new)
        start = time.perf_counter()
        written = write(texts_read)
        return time.perf_counter() - start, written

    def by_bytes(texts_read):
        for at in range(prompt, prompt + new):
            texts_read.next_bytes()
            texts_read.feed([text[at] for text in texts])
        return batch * new

    runs = {
        "plain": plain,
        # The same draw each round: random weights write what no text holds, and which tokens can follow such a sequence is
        # worked out when it is first seen.
        "write_tokens": lambda seed: exact(lambda t: sum(map(len, write_tokens(t, new)))),
        "next_bytes": lambda seed: exact(by_bytes),
    }
    seconds, written = {name: [] for name in runs}, {}
    for seed in range(repeats + 1):
        for name, run in runs.items():
            taken, written[name] = run(seed)
            seconds[name].append(taken / written[name])
    result = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    step = result["plain"] * written["plain"] / (batch * count)  # of a row
    return result | {"step_ratio": result["next_bytes"] / step, "bytes_per_token": tokens}
