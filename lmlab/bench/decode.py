"""Bytes per second of cached generation: 256 new bytes after a prompt of 256, at batch 1 and 16."""

import statistics
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from lmlab.decoding.generate import generate
from lmlab.experiment import load
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init

PROMPT, NEW = 256, 256
BATCHES = (1, 16)


def subjects():
    """{label: (model, bytes per token)}: the byte transformer of `lmlab bench train`, and H-Net's small arms."""
    models = {"byte transformer, d 256, 6 layers": (LanguageModel(256, transformer(6, 256, 1024, n_heads=4)), 1.0)}
    experiment = load("hnet")
    for arm in experiment.arms:
        run = experiment.resolve(arm.name, "small")
        models[f"hnet/{arm.name} at small"] = (run.model, run.tokenizer.bytes_per_token)
    return models


def measure(model, bytes_per_token, batch, repeats):
    """Median bytes per second over `repeats` generations of random weights, the prompt's prefill included."""
    params = init(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    prompts = list(rng.integers(97, 123, (batch, round(PROMPT / bytes_per_token))))
    new = round(NEW / bytes_per_token)
    seconds = []
    for i in range(repeats + 1):  # the first compiles
        before = time.perf_counter()
        generate(model, params, prompts, new, -1, jax.random.key(i))
        seconds.append(time.perf_counter() - before)
    return batch * new * bytes_per_token / statistics.median(seconds[1:])


def main(repeats):
    """Print the table."""
    table = Table("model", *[f"batch {b}, bytes/s" for b in BATCHES], box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, (model, bytes_per_token) in subjects().items():
        rates = [measure(model, bytes_per_token, batch, repeats) for batch in BATCHES]
        table.add_row(label, *[f"{r:,.0f}" for r in rates])
    Console(width=120).print(table)
    print(f"{PROMPT} bytes of prompt, {NEW} new bytes, prefill included; median of {repeats} after one warm-up.")
