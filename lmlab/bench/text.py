"""Bytes per second of training tokenizers and of encoding with them, beside the library that they wrap; and what
answers byte by byte cost a model of subwords over plain decoding.

All take turns on the same text: a shared machine's speed drifts, so only ratios of neighbours mean anything. The pair
counts replay the merges of a BPE that is trained already and encode nothing.
"""

import collections
import statistics
import time

import tokenizers
from rich.console import Console
from rich.table import Table
from tokenizers import models, trainers

from lmlab.bench import exact_bytes
from lmlab.bench.decode import BATCHES, interleave
from lmlab.data.corpora import StandardLibrary
from lmlab.text.bpe import BPE, byte_alphabet
from lmlab.text.lib import LiB
from lmlab.text.merges import count_words, join, merge_steps
from lmlab.text.superwords import train_superwords
from lmlab.text.unigram import Unigram

TEXT, VOCABULARY = 1_000_000, 4096
BPE_LIBRARY, UNIGRAM_LIBRARY = "tokenizers, BPE", "tokenizers, Unigram"
PAIRS = "BPE's pair counts"
BESIDE = {  # which of the library's models each is measured beside
    BPE_LIBRARY: BPE_LIBRARY,
    "BPE": BPE_LIBRARY,
    PAIRS: BPE_LIBRARY,
    "superwords": BPE_LIBRARY,
    "LiB": BPE_LIBRARY,
    UNIGRAM_LIBRARY: UNIGRAM_LIBRARY,
    "Unigram": UNIGRAM_LIBRARY,
}


def library(texts, model, trainer, vocab_size, **more):
    """What a user of the library writes: byte-level, with as many ids as ours without BOS and EOS."""
    made = tokenizers.Tokenizer(model())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = byte_alphabet()
    made.train_from_iterator(
        texts, trainer(vocab_size=vocab_size - 2, initial_alphabet=alphabet, show_progress=False, **more)
    )
    return made


def pair_counts(documents, merges):
    """The counts of all pairs before each of the merges, none of which is kept."""
    collections.deque(merge_steps(merges, join([count_words(documents)])), maxlen=0)


def training(documents, vocab_size):
    """{label: () -> what it trains}."""
    texts, merges = [data.decode() for data in documents], BPE(vocab_size).train(documents).merges
    size = sum(map(len, documents))
    return {
        BPE_LIBRARY: lambda: library(texts, models.BPE, trainers.BpeTrainer, vocab_size, min_frequency=2),
        "BPE": lambda: BPE(vocab_size).train(documents),
        PAIRS: lambda: pair_counts(documents, merges),
        "superwords": lambda: train_superwords(documents, vocab_size, vocab_size // 2),
        "LiB": lambda: LiB(vocab_size, max_bytes=size).train(documents),
        UNIGRAM_LIBRARY: lambda: library(texts, models.Unigram, trainers.UnigramTrainer, vocab_size),
        "Unigram": lambda: Unigram(vocab_size).train(documents),
    }


def encoding(documents, trained):
    """{label: () -> the ids of every document} of what `training` trained."""
    texts = [data.decode() for data in documents]

    def of(tokenizer):
        if isinstance(tokenizer, tokenizers.Tokenizer):
            return lambda: [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        return lambda: tokenizer.encode_batch(documents)

    return {label: of(tokenizer) for label, tokenizer in trained.items() if tokenizer is not None}


def _timed(call):
    """A function of a seed: seconds of one call."""

    def run(seed):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return run


def measure(max_bytes=TEXT, vocab_size=VOCABULARY, repeats=3):
    """{label: {"train", "encode": bytes per second, "train_ratio", "encode_ratio": over the library's}}, medians behind
    a round that warms up. What does not encode has no "encode"."""
    documents = [d.data for d in StandardLibrary(max_bytes).documents()]
    documents = [data.decode("utf-8", "ignore").encode() for data in documents]  # the library reads text alone
    size, found = sum(map(len, documents)), collections.defaultdict(dict)
    train = training(documents, vocab_size)
    encode = encoding(documents, {label: call() for label, call in train.items()})
    for what, calls in (("train", train), ("encode", encode)):
        seconds = interleave({label: _timed(call) for label, call in calls.items()}, repeats)
        for label, times in seconds.items():
            ratios = [theirs / ours for theirs, ours in zip(seconds[BESIDE[label]], times, strict=True)]
            found[label][what] = size / statistics.median(times)
            found[label][f"{what}_ratio"] = statistics.median(ratios)
    return dict(found)


def main(repeats):
    """Print both tables."""
    table = Table("tokenizer", "training, bytes/s", "of library's", "encoding, bytes/s", "of library's", box=None)
    for label, row in measure(repeats=repeats).items():
        cells = [
            text
            for what in ("train", "encode")
            for text in ([f"{row[what]:,.0f}", f"{row[f'{what}_ratio']:.2f}"] if what in row else ["", ""])
        ]
        table.add_row(label, *cells)
    Console(width=120).print(table)
    print(f"{TEXT / 1e6:.0f} MB of the standard library, {VOCABULARY} ids; medians of {repeats} behind a warm-up.")
    table = Table("byte by byte, batch", "of plain decoding", "plain, us a byte", "a step of a plain one", box=None)
    for batch in BATCHES:
        row = exact_bytes.measure(batch=batch, repeats=repeats)
        for name in ("write_tokens", "next_bytes"):
            step = row["step_ratio"] if name == "next_bytes" else None
            ratio = row[name] / row["plain"] if step is None else step * row["bytes_per_token"]
            cells = f"{ratio:.2f}", f"{1e6 * row['plain']:,.0f}", "" if step is None else f"{step:.2f}"
            table.add_row(f"{name}, {batch}", *cells)
    Console(width=120).print(table)
    print(
        "write_tokens draws tokens that begin as the prompt ends; next_bytes gives the distribution of every byte of a "
        f"true text of {row['bytes_per_token']} bytes a token, for a step of the model a byte, and is compared with plain "
        "decoding of that text. Weights are random, and so is what is written."
    )
