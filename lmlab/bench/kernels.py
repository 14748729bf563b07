"""Kernels: the XLA form beside the plain reference on this machine, and the TPU form beside the XLA form as compiled.

What a compiler says is not a time: traffic counts a kernel's operands and results once and whole, cycles of XLA's own
code are its estimates, and a Pallas kernel has none (0). tpu/README.md keeps what was found.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from lmlab.errors import UserError
from lmlab.kernels import aot, biased_attention, compaction, convolution, dispatch, scan, ssd

TPU = "v5e:2x2"


def _within(ids_BL):
    return ids_BL[:, :, None] == ids_BL[:, None, :]


def _attention(q_BLHK, k_BLHK, v_BLHK, bias, ids_BL):
    return dispatch.biased_attention(q_BLHK, k_BLHK, v_BLHK, (bias,), _within(ids_BL))


def _attention_reference(q_BLHK, k_BLHK, v_BLHK, bias, ids_BL):
    return biased_attention.biased_attention_reference(q_BLHK, k_BLHK, v_BLHK, bias, _within(ids_BL))


def shapes(small):
    """{kernel: (arguments as shapes, the XLA form, the reference)}."""
    B, L, D, H, N = (2, 1024, 128, 4, 64) if small else (2, 8192, 1024, 16, 128)
    C = 2 * D + 2 * N  # of Mamba-2's convolution

    def f32(*dims):
        return jax.ShapeDtypeStruct(dims, jnp.float32)

    c = jax.eval_shape(functools.partial(compaction.compact, capacity=L // 4), jax.ShapeDtypeStruct((B, L), bool))
    mamba = (f32(B, L, H, 64), f32(B, L, H), f32(H), f32(B, L, N), f32(B, L, N))
    ids = jax.ShapeDtypeStruct((B, L), jnp.int32)
    conv = (f32(B, L, C), f32(4, C), f32(C), ids)
    heads = (*[f32(B, L, H, D // H)] * 3, f32(1, H, L, L), ids)
    return {
        "linear recurrence": ((f32(B, L), f32(B, L, D)), scan.linear_scan, scan.linear_scan_reference),
        "SSD": (mamba, ssd.ssd, ssd.ssd_reference),
        "causal convolution": (conv, convolution.causal_conv_silu, convolution.causal_conv_silu_reference),
        "compaction": ((f32(B, L, D), c), compaction.gather, compaction.gather_reference),
        "its inverse": ((f32(B, L // 4, D), c), compaction.spread, compaction.spread_reference),
        "attention with biases": (heads, _attention, _attention_reference),  # of XLA alone
    }


def filled(tree):
    """Arguments of these shapes: chunks every 8 positions, documents of 100, decays in (0, 1), normal values."""

    def fill(v):
        if isinstance(v, compaction.Compaction):
            L = v.slot_BL.shape[1]
            start_BL = jnp.broadcast_to(jnp.arange(L) % 8 == 0, v.slot_BL.shape)
            return compaction.compact(start_BL, v.index_BC.shape[1])
        if v.dtype == jnp.int32:
            return jnp.broadcast_to(jnp.arange(v.shape[1], dtype=v.dtype) // 100, v.shape)
        x = jax.random.normal(jax.random.key(v.size), v.shape, v.dtype)
        if v.ndim == 1:  # Mamba-2's A, and below its time steps
            return -jnp.exp(x)
        return jax.nn.sigmoid(x) if v.ndim == 2 or v.shape[2] < 32 else x

    return jax.tree.map(fill, tree, is_leaf=lambda v: isinstance(v, compaction.Compaction))


def with_gradient(f, arguments):
    """A compiled (value, gradients in the floating-point arguments)."""
    numbers = tuple(i for i, v in enumerate(arguments) if getattr(v, "dtype", None) == jnp.float32)

    def loss(*values):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(f(*values)))

    return jax.jit(jax.value_and_grad(loss, argnums=numbers)).lower(*arguments).compile()


def here(repeats):
    """Rows (kernel, milliseconds of the XLA form, how many times as fast as the reference), taking turns."""
    rows = []
    for name, (tree, fast, reference) in shapes(small=True).items():
        arguments = filled(tree)
        subjects = [with_gradient(f, arguments) for f in (fast, reference)]
        rounds = []
        for _ in range(repeats + 1):
            seconds = []
            for run in subjects:
                start = time.perf_counter()
                jax.block_until_ready(run(*arguments))
                seconds.append(time.perf_counter() - start)
            rounds.append(seconds)
        ratio = statistics.median(slow / quick for quick, slow in rounds[1:])
        rows.append((name, 1e3 * statistics.median(quick for quick, _ in rounds[1:]), ratio))
    return rows


def compiled():
    """Rows (kernel, least bytes, TPU kernels' bytes over it, temporaries of both forms, cycles of the XLA form) of value
    and gradient on one chip of `TPU`."""
    kernels = {
        "linear recurrence": "lmlab.kernels.scan_tpu:linear_scan_tpu",
        "SSD": "lmlab.kernels.ssd_tpu:ssd_tpu",
        "causal convolution": "lmlab.kernels.convolution_tpu:causal_conv_silu_tpu",
        "compaction": "lmlab.kernels.compaction_tpu:gather_tpu",
        "its inverse": "lmlab.kernels.compaction_tpu:spread_tpu",
    }
    programs, of = [], shapes(small=False)
    for name, pallas in kernels.items():
        tree, fast, _ = of[name]
        for function in (pallas, f"{fast.__module__}:{fast.__name__}"):
            programs.append((function, tree, TPU, True))
    reports, rows = aot.compile_each(programs), []
    for name, kernel, xla in zip(kernels, reports[::2], reports[1::2], strict=True):
        least = kernel.argument_bytes + kernel.output_bytes  # arguments hold the cotangents, outputs the gradients
        moved = sum(k.calls * (k.hbm_bytes + k.vmem_bytes) for k in kernel.kernels)
        rows.append((name, least, moved / least, kernel.temporary_bytes, xla.temporary_bytes, xla.cycles))
    return rows


def main(repeats):
    """Print both tables."""
    table = Table("forward and gradient here", "ms", "times the reference's speed", box=None)
    for name, milliseconds, ratio in here(repeats):
        table.add_row(name, f"{milliseconds:.1f}", f"{ratio:.1f}")
    Console(width=120).print(table)
    try:
        rows = compiled()
    except UserError as error:
        print(f"Without a TPU's compiler: {error}")
        return
    titles = ("MB at least", "kernels' traffic", "temporaries, MB", "XLA's temporaries, MB", "XLA's cycles, M")
    table = Table(f"compiled for {TPU}", *titles, box=None)
    for name, least, traffic, ours, xla, cycles in rows:
        cells = (least / 1e6, traffic, ours / 1e6, xla / 1e6, cycles / 1e6)
        table.add_row(name, *[f"{c:,.2f}" if c < 10 else f"{c:,.0f}" for c in cells])
    Console(width=120).print(table)
    print("Traffic: operands and results of forward and gradient kernels over the program's arguments and results.")
