"""Training speed: bytes per second, and FLOP/s as a fraction of what this machine's matrix products reach.

A shared machine's speed drifts by a factor within minutes, so a step is only ever compared with what ran
right before or after it: matrix products of the model's own shapes, and a step of the peer.
"""

import statistics
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from lmlab.bench.matmul import MatmulRate, transformer_products, with_gradients
from lmlab.bench.peers import Peer, Shape
from lmlab.errors import UserError
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.optimizers import AdamW
from lmlab.training.run import Run
from lmlab.training.sharding import batch_sharding, make_mesh, place
from lmlab.training.step import make_init, make_step

SHAPE = Shape(vocab_size=256, d_model=256, n_layers=6, n_heads=4, d_ff=1024, batch_size=8, length=1024)


def byte_transformer():
    """The Run of the peer's shape."""
    return Run(
        model=LanguageModel(
            SHAPE.vocab_size, transformer(SHAPE.n_layers, SHAPE.d_model, SHAPE.d_ff, n_heads=SHAPE.n_heads)
        ),
        corpus=None,
        tokenizer=ByteTokenizer(),
        optimizer=AdamW(1e-3),
        steps=1000,
        batch_size=SHAPE.batch_size,
        length=SHAPE.length,
    )


def training_flops(run):
    """FLOPs of a training step, thrice the forward pass: (every query against all `length` keys, as H-Net's
    appendix B counts; against the keys that it sees)."""
    L, tokens = run.length, run.batch_size * run.length
    full = sum(run.model.flops(L).values())
    seen = statistics.fmean(sum(run.model.flops(t).values()) for t in np.linspace(1, L, 33))
    return 3 * tokens * full, 3 * tokens * seen


class Trainer:
    """A run's compiled step on random tokens."""

    def __init__(self, run):
        mesh, optimizer = make_mesh(run.mesh), run.optimizer.build(run.steps)
        init, shardings = make_init(run, optimizer, mesh)
        self._state = init(jax.random.key(0))
        shape = (run.batch_size, run.length)
        ids = np.random.default_rng(0).integers(0, run.model.vocab_size, (run.batch_size, run.length + 1))
        ids = ids.astype(np.int32)
        batch = {
            "tokens": ids[:, :-1],
            "targets": ids[:, 1:],
            "segment_ids": np.ones(shape, np.int32),
            "weights": np.ones(shape, np.float32),
            "target_bytes": np.ones(shape, np.int32),
        }
        self._batch = place(batch, batch_sharding(mesh))
        start = time.perf_counter()
        self._step = make_step(run, optimizer, mesh, shardings).lower(self._state, self._batch).compile()
        self.compile_seconds = time.perf_counter() - start

    def step(self):
        """One training step: seconds."""
        start = time.perf_counter()
        self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - start


def measure(label, run, rate, repeats, peer=None):
    """One row: medians over `repeats` steps, each between a measurement of `rate` and a step of `peer`."""
    trainer = Trainer(run)
    full, seen = training_flops(run)
    seconds, fraction, peer_seconds = [], [], []
    for i in range(repeats + 1):  # the first warms up
        of_matmul = rate.measure()
        seconds.append(trainer.step())
        fraction.append(full / seconds[-1] / of_matmul)
        if peer is not None:
            peer_seconds.append(peer.step()[1])
    row = {
        "label": label,
        "step_seconds": statistics.median(seconds[1:]),
        "compile_seconds": trainer.compile_seconds,
        "of_matmul": statistics.median(fraction[1:]),
        "of_matmul_seen": statistics.median(fraction[1:]) * seen / full,
    }
    step_bytes = run.batch_size * run.length * run.tokenizer.bytes_per_token
    row["bytes_per_second"] = step_bytes / row["step_seconds"]
    if peer is not None:
        row["peer_seconds"] = statistics.median(peer_seconds[1:])
        ratios = [theirs / ours for theirs, ours in zip(peer_seconds[1:], seconds[1:], strict=True)]
        row["times_peer"] = statistics.median(ratios)
    return row


def bench_train(arms, peer, repeats):
    """Rows of `measure` for the byte transformer, beside the peer if asked for, and for each {label: Run}."""
    rate = MatmulRate(
        with_gradients(transformer_products(2 * SHAPE.length, SHAPE.d_model, SHAPE.d_ff, SHAPE.vocab_size))
    )
    opponent = Peer(SHAPE) if peer else None
    label = f"byte transformer, d {SHAPE.d_model}, {SHAPE.n_layers} layers"
    rows = [measure(label, byte_transformer(), rate, repeats, opponent)]
    if opponent is not None:
        opponent.close()
    return rows + [measure(label, run, rate, repeats) for label, run in arms.items()]


def main(repeats):
    """Measure the byte transformer, the peer if it is installed, and H-Net's small arms; print the table."""
    from lmlab.experiment import load

    jax.config.update("jax_enable_compilation_cache", False)  # compile times are part of the answer
    experiment = load("hnet")
    arms = {f"hnet/{arm.name} at small": experiment.resolve(arm.name, "small") for arm in experiment.at("small")}
    try:
        rows = bench_train(arms, True, repeats)
    except UserError as error:
        print(f"Without the peer: {error}")
        rows = bench_train(arms, False, repeats)
    report(rows, repeats)


def report(rows, repeats):
    """Print `rows`."""
    table = Table("model", "bytes/s", "step, s", "compile, s", "of matmul", "keys seen", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row["label"],
            f"{row['bytes_per_second']:,.0f}",
            f"{row['step_seconds']:.3f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['of_matmul']:.2f}",
            f"{row['of_matmul_seen']:.2f}",
        )
    Console(width=120).print(table)
    for row in rows:
        if "times_peer" in row:
            print(
                f"{row['label']}: {row['times_peer']:.2f} times as fast as Hugging Face's Llama in PyTorch, "
                f"whose step took {row['peer_seconds']:.3f} s in turn with ours."
            )
    print(
        "of matmul: training FLOP/s over the rate of this machine's matrix products, measured in turn with "
        "the steps. Training counts 3 forward passes, and attention every query against all keys of the row, "
        "masked or not (H-Net, arXiv 2507.07955, appendix B); keys seen: only those at or before the query. "
        f"Medians of {repeats} steps."
    )
