"""What chunks cost and save in a training step: H-Net beside isotropic models of equal FLOPs per byte, the share of
chunking itself, and speed against bytes per chunk."""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from lmlab.bench.decode import interleave
from lmlab.bench.train import Trainer
from lmlab.experiment import load
from lmlab.kernels.compaction import compact
from lmlab.models.chunkers import FixedStride, LearnedChunker, segment_starts
from lmlab.models.hierarchy import Hierarchy

STRIDES = (2, 4, 8, 16)
UNLIKE = 0.2  # how far rows' numbers of chunks are from their mean: the fullest of eight has 1.25 times it, as measured


class Planned(LearnedChunker):
    """Routes as the learned chunker does, at its cost, but starts as many chunks as are planned, at random and in rows of
    unlike numbers, as a trained one would. Random weights on random bytes would start twice as many."""

    def __call__(self, h_BLD, tokens_BL, segment_ids_BL):
        """Routing of packed rows."""
        routing = super().__call__(h_BLD, tokens_BL, segment_ids_BL)
        row_BL = jnp.arange(len(segment_ids_BL))[:, None] + segment_ids_BL
        rate_BL = (1 + UNLIKE * jnp.cos(2.4 * row_BL)) / self.positions_per_chunk
        drawn_BL = jax.random.uniform(jax.random.key(0), segment_ids_BL.shape) < rate_BL
        start_BL = segment_starts(segment_ids_BL) | (drawn_BL & (segment_ids_BL > 0))
        return routing._replace(start_BL=start_BL)


def settled(run):
    """`run` with chunks as planned, which is what a step costs once the router keeps to its target."""

    def planned(stage):
        if not isinstance(stage, Hierarchy):
            return stage
        learned = stage.chunker
        chunker = Planned(learned.d_model, learned.target, learned.ratio_weight, learned.achieved)
        return stage.clone(chunker=chunker, inner=planned(stage.inner))

    return dataclasses.replace(run, model=run.model.clone(backbone=planned(run.model.backbone)))


def step_of(run):
    """A function of a seed: seconds of one training step."""
    trainer = Trainer(run)
    return lambda seed: trainer.step()


def chunking_of(run):
    """The same for the outer chunker, pool and unpool alone, forward and backward, on random hidden states."""
    stage = run.model.backbone
    B, L, D = run.batch_size, run.length, stage.d_model
    h_BLD = jax.random.normal(jax.random.key(0), (B, L, D))
    tokens_BL = jax.random.randint(jax.random.key(1), (B, L), 0, 256)
    ones_BL, slots = jnp.ones((B, L), jnp.int32), stage.slots(L)[0]
    every_BL = jnp.broadcast_to(jnp.arange(L) % round(stage.chunker.positions_per_chunk) == 0, (B, L))

    def parts(params, h_BLD):
        routing = stage.chunker.apply(params["chunker"], h_BLD, tokens_BL, ones_BL)
        routing = routing._replace(start_BL=every_BL)  # chunks of the nominal length, at any weights
        c = compact(routing.start_BL, slots)
        z_BCD = stage.pool.apply(params["pool"], h_BLD, routing, c, ones_BL)
        y_BLD = stage.unpool.apply(params["unpool"], z_BCD, h_BLD, routing, c, ones_BL)
        return jnp.vdot(y_BLD, h_BLD) + routing.auxiliary

    c = compact(every_BL, slots)
    keys = jax.random.split(jax.random.key(2), 3)
    routing = stage.chunker.init_with_output(keys[0], h_BLD, tokens_BL, ones_BL)
    z_BCD = jnp.zeros((B, slots, D))
    params = {
        "chunker": routing[1],
        "pool": stage.pool.init(keys[1], h_BLD, routing[0], c, ones_BL),
        "unpool": stage.unpool.init(keys[2], z_BCD, h_BLD, routing[0], c, ones_BL),
    }
    run_parts = jax.jit(jax.grad(parts, argnums=(0, 1)))

    def measure(seed):
        start = time.perf_counter()
        jax.block_until_ready(run_parts(params, h_BLD))
        return time.perf_counter() - start

    return measure


def strided(run, n):
    """`run` with a chunk every `n` bytes, each step choosing among the capacities that the `STRIDES` need."""
    capacity = tuple(sorted(n / m for m in STRIDES))
    backbone = run.model.backbone.clone(chunker=FixedStride(n), capacity=capacity)
    return dataclasses.replace(run, model=run.model.clone(backbone=backbone))


def main(repeats):
    """Print both tables."""
    experiment = load("hnet")
    names = ("llamabyte", "mambabyte", "hnet_1stage", "hnet_2stage")
    runs = {name: settled(experiment.resolve(name, "small")) for name in names}
    steps = {name: step_of(run) for name, run in runs.items()}
    steps["chunking of hnet_1stage"] = chunking_of(runs["hnet_1stage"])
    seconds = interleave(steps, repeats)
    table = Table("hnet at small, one step", "ms", "of llamabyte's", "of mambabyte's", "of hnet_1stage's", box=None)
    for name, times in seconds.items():
        ratios = [
            statistics.median(t / o for t, o in zip(times, seconds[other], strict=True))
            for other in ("llamabyte", "mambabyte", "hnet_1stage")
        ]
        table.add_row(name, f"{1e3 * statistics.median(times):.0f}", *[f"{r:.2f}" for r in ratios])
    Console(width=120).print(table)
    run = runs["hnet_1stage"]
    seconds = interleave({n: step_of(strided(run, n)) for n in STRIDES}, repeats)
    table = Table("bytes per chunk", "bytes/s", box=None)
    for n, times in seconds.items():
        table.add_row(str(n), f"{run.batch_size * run.length / statistics.median(times):,.0f}")
    Console(width=120).print(table)
    print(
        f"Steps in turn, medians of {repeats}. Planned FLOPs per byte are equal in the first table, where the H-Nets have as "
        "many chunks as planned. In the second, chunks come every so many bytes. Each step chooses its capacity; all but "
        "the smallest compute the inner network again backward."
    )
