"""Bytes per second of cached generation: 256 new bytes after a prompt of 256, at batch 1 and 16.

The byte transformer runs in turn with two peers of its shape, Hugging Face's Llama and a plain `lax.scan` over a
cache: a shared machine's speed drifts, so only ratios of neighbours mean anything.
"""

import statistics
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from lmlab.bench import plain
from lmlab.bench.peers import Peer
from lmlab.bench.train import SHAPE, byte_transformer
from lmlab.decoding.generate import generate
from lmlab.errors import UserError
from lmlab.experiment import load
from lmlab.models.language_model import init

PROMPT, NEW = 256, 256
BATCHES = (1, 16)


def ours(model, bytes_per_token, batch):
    """A function of a seed: seconds of one generation with random weights, the prompt's prefill included."""
    params = init(model, jax.random.key(0))
    prompts = list(np.random.default_rng(0).integers(97, 123, (batch, round(PROMPT / bytes_per_token))))

    def run(seed):
        start = time.perf_counter()
        generate(model, params, prompts, round(NEW / bytes_per_token), -1, jax.random.key(seed))
        return time.perf_counter() - start

    return run


def plain_scan(batch):
    """The same for `plain`."""
    params = plain.init(SHAPE, jax.random.key(0))
    prompts = np.random.default_rng(0).integers(97, 123, (batch, PROMPT))

    def run(seed):
        start = time.perf_counter()
        jax.block_until_ready(plain.generate(SHAPE, params, prompts, NEW, jax.random.key(seed)))
        return time.perf_counter() - start

    return run


def interleave(subjects, repeats):
    """{label: seconds of each of `repeats` rounds}, the subjects taking turns; a first round warms up."""
    rounds = [{label: run(seed) for label, run in subjects.items()} for seed in range(repeats + 1)]
    return {label: [r[label] for r in rounds[1:]] for label in subjects}


def peer_or_none():
    """Hugging Face's Llama, or None with a line that says what is missing."""
    try:
        return Peer(SHAPE)
    except UserError as error:
        print(f"Without that peer: {error}")
        return None


def main(repeats):
    """Print the table: the byte transformer beside its peers, then H-Net's small arms."""
    experiment = load("hnet")
    arms = {a.name: experiment.resolve(a.name, "small") for a in experiment.at("small")}
    peer = peer_or_none()
    columns = []
    for batch in BATCHES:
        ours_label = "byte transformer, d 256, 6 layers"
        subjects = {ours_label: ours(byte_transformer().model, 1.0, batch), "plain lax.scan": plain_scan(batch)}
        if peer is not None:
            subjects["Hugging Face's Llama"] = lambda _, batch=batch: peer.generate(batch, PROMPT, NEW)
        seconds = interleave(subjects, repeats)
        column = {}
        for label, times in seconds.items():
            ratio = statistics.median(t / o for t, o in zip(times, seconds[ours_label], strict=True))
            column[label] = f"{batch * NEW / statistics.median(times):,.0f}"
            column[label] += "" if label == ours_label else f" (1/{ratio:.2f} of ours)"
        for name, run in arms.items():
            times = interleave({name: ours(run.model, run.tokenizer.bytes_per_token, batch)}, repeats)[name]
            column[f"hnet/{name} at small"] = f"{batch * NEW / statistics.median(times):,.0f}"
        columns.append(column)
    if peer is not None:
        peer.close()
    table = Table("model", *[f"batch {b}, bytes/s" for b in BATCHES], box=None)
    for label in columns[0]:
        table.add_row(label, *[column[label] for column in columns])
    Console(width=120).print(table)
    print("Random weights and so random bytes: learned chunks start at half of them, white space at a quarter.")
    print(f"{PROMPT} bytes of prompt, {NEW} new bytes, prefill included; median of {repeats} after one warm-up.")
