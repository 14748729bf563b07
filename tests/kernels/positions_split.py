"""Positions split over eight devices give what one device gives, values and gradients, and little is moved for it.
Runs in the child process of test_sequence.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from lmlab.kernels import compaction, dispatch, sequence
from lmlab.kernels.attention import attention_reference, splash_attention
from lmlab.kernels.compaction_tpu import BLOCK, gather_tpu, spread_tpu
from lmlab.kernels.convolution import causal_conv_silu
from lmlab.kernels.convolution_tpu import causal_conv_silu_tpu
from lmlab.kernels.hlo import read
from lmlab.kernels.scan import linear_scan
from lmlab.kernels.scan_tpu import linear_scan_tpu
from lmlab.kernels.ssd import ssd
from lmlab.kernels.ssd_tpu import ssd_tpu

AXES = ("data", "fsdp", "sequence", "tensor")
POSITIONS = PartitionSpec(("data", "fsdp"), "sequence")


def mesh(sequence):
    return Mesh(np.asarray(jax.devices()).reshape(8 // sequence, 1, sequence, 1), AXES)


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed + sum(shape)), shape)


def documents(L):
    """Rows of segment ids: none changes; one starts on every edge of eight parts; one spans six parts and ends inside
    one; short ones, an id that comes back, and padding."""
    part, ids = L // 8, np.ones((4, L), np.int32)
    ids[1] = 1 + np.arange(L) // part
    ids[2, part - 1 : L - part // 2 - 1] = 2
    ids[3] = np.where(np.arange(L) // 3 % 2, 1, 2)
    ids[3, L // 2 : -part - 1] = 7
    ids[3, -part // 2 :] = 0
    return jnp.asarray(ids)


def value_and_gradient(f, arguments, mesh=None):
    """f's value, and the gradient of a sum of it with random weights, by every argument."""

    def total(*arguments):
        y = f(*arguments)
        return jnp.sum(y * random(*y.shape, seed=9).astype(y.dtype)), y

    gradient = jax.value_and_grad(total, argnums=tuple(range(len(arguments))), has_aux=True)

    def traced(*arguments):
        if mesh is None:
            return gradient(*arguments)
        with dispatch.compiled_for(mesh):
            return gradient(*arguments)

    return jax.jit(traced)(*arguments)


def assert_same(split, whole, arguments, sequence, atol=2e-5):
    same = functools.partial(np.testing.assert_allclose, atol=atol, rtol=1e-4)
    jax.tree.map(same, value_and_gradient(split, arguments, mesh(sequence)), value_and_gradient(whole, arguments))


def parts(f, sequence, specs):
    """`f` on every device's part of positions, as `dispatch` does it on a TPU."""
    return jax.shard_map(f, mesh=mesh(sequence), in_specs=specs, out_specs=POSITIONS, check_vma=False)


@pytest.mark.parametrize("split", [4, 8])
def test_linear_scan(split):
    a = jax.nn.sigmoid(random(4, 48)).at[:, ::7].set(0).at[0].set(0.9)
    arguments = (a, random(4, 48, 5))
    assert_same(dispatch.linear_scan, linear_scan, arguments, split)
    if split == 8:
        kernel = functools.partial(linear_scan_tpu, interpret=True)
        pallas = parts(lambda a, b: sequence.linear_scan(kernel, a, b), split, (POSITIONS, POSITIONS))
        assert_same(pallas, linear_scan, arguments, split)


def ssd_arguments(L, H=2, P=4, N=8):
    dt = jax.nn.softplus(random(4, L, H) - 1)
    return random(4, L, H, P), dt, -jnp.exp(random(H)), random(4, L, N), random(4, L, N, seed=1)


@pytest.mark.parametrize("split, ids", [(8, documents(64)), (4, None)], ids=["documents", "none"])
def test_ssd(split, ids):
    form = lambda ssd: lambda *arguments: ssd(*arguments, ids, chunk=16)[0]  # noqa: E731
    assert_same(form(dispatch.ssd), form(ssd), ssd_arguments(64), split, atol=1e-4)


def test_the_last_state_of_ssd_is_the_rows():
    arguments, ids = ssd_arguments(64), documents(64)
    with dispatch.compiled_for(mesh(8)):
        h = jax.jit(lambda: dispatch.ssd(*arguments, ids)[1])()
    np.testing.assert_allclose(h, ssd(*arguments, ids)[1], atol=1e-5)


def test_ssd_of_a_tpu():
    ids, kernel = documents(64), functools.partial(ssd_tpu, interpret=True)
    pallas = parts(
        lambda x, dt, A, B, C, ids: sequence.ssd(kernel, x, dt, A, B, C, ids)[0],
        8,
        (POSITIONS, POSITIONS, PartitionSpec(), POSITIONS, POSITIONS, POSITIONS),
    )
    arguments = ssd_arguments(64, H=2, P=64, N=16)
    assert_same(lambda *v: pallas(*v, ids), lambda *v: ssd(*v, ids)[0], arguments, 8, atol=1e-3)


@pytest.mark.parametrize("L", [16, 64])  # at 16, four taps reach over the whole part before
@pytest.mark.parametrize("packed", [True, False])
def test_causal_conv_silu(L, packed):
    ids = documents(L) if packed else None
    arguments = (random(4, L, 6), random(4, 6), random(6))
    form = lambda conv: lambda *arguments: conv(*arguments, ids)  # noqa: E731
    assert_same(form(dispatch.causal_conv_silu), form(causal_conv_silu), arguments, 8)


def test_causal_conv_silu_of_a_tpu():
    kernel, ids = functools.partial(causal_conv_silu_tpu, interpret=True), documents(64)
    specs = (POSITIONS, PartitionSpec(), PartitionSpec(), POSITIONS)
    pallas = parts(functools.partial(sequence.causal_conv_silu, kernel), 8, specs)
    arguments = (random(4, 64, 128), random(4, 128), random(128))
    assert_same(lambda *v: pallas(*v, ids), lambda *v: causal_conv_silu(*v, ids), arguments, 8, atol=1e-4)


@pytest.mark.parametrize("split, window", [(2, None), (8, None), (8, 5), (4, 24), (8, 1), (8, 200)])
def test_attention(split, window):
    ids = documents(64)
    arguments = [random(4, 64, 2, 4, seed=s) for s in range(3)]
    form = lambda attention: lambda q, k, v: attention(q, k, v, ids, window)  # noqa: E731
    assert_same(form(dispatch.attention), form(attention_reference), arguments, split)


@pytest.mark.parametrize("window", [None, 150])
def test_attention_of_a_tpu(window):
    ids = documents(512)[1:3]
    arguments = [random(2, 512, 1, 128, seed=s) for s in range(3)]
    kernel = lambda q, k, v, ids: splash_attention(q, k, v, ids, window, interpret=True)  # noqa: E731
    pallas = parts(functools.partial(sequence.attention, kernel, window=window), 4, (POSITIONS,) * 4)
    reference = lambda q, k, v: attention_reference(q, k, v, ids, window)  # noqa: E731
    np.testing.assert_allclose(jax.jit(pallas)(*arguments, ids), jax.jit(reference)(*arguments), atol=2e-5)


def starts(L):
    """Starts everywhere; nowhere on some devices; only on the last; in an uneven mixture."""
    rows = [np.ones(L), np.arange(L) % (L // 3) == 0, np.arange(L) >= L - 3, np.random.default_rng(0).random(L) < 0.4]
    rows = np.stack(rows).astype(bool)
    rows[:2, 0] = True
    return jnp.asarray(rows)


def test_shift_right():
    for x, fill in ((random(4, 16, 3), 0), (starts(16), False), (documents(16), 0)):
        with dispatch.compiled_for(mesh(8)):
            y = jax.jit(lambda x, fill=fill: dispatch.shift_right(x, fill))(x)
        np.testing.assert_array_equal(y, dispatch.shift_right(x, fill))


@pytest.mark.parametrize("capacity", [8, 64])
def test_compaction(capacity):
    start = starts(64)
    expected = jax.jit(compaction.compact, static_argnums=1)(start, capacity)
    with dispatch.compiled_for(mesh(8)):
        c = jax.jit(dispatch.compact, static_argnums=1)(start, capacity)
    for name in ("valid_BC", "slot_BL", "kept_BL", "overflow_B"):
        np.testing.assert_array_equal(getattr(c, name), getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(jnp.where(c.valid_BC, c.index_BC, 0), jnp.where(c.valid_BC, expected.index_BC, 0))

    def through(module):
        def f(x, y):
            c = module.compact(start, capacity)
            z = module.gather(x, c)
            return module.spread(z * z, c) * y

        return f

    assert_same(through(dispatch), through(compaction), (random(4, 64, 3), random(4, 64, 3, seed=1)), 8)


def test_compaction_of_a_tpu():
    """Slots fill several of a kernel's blocks, and what its gradient leaves unwritten is not read."""
    L, capacity = 8 * 96, 640
    start, x = jnp.asarray(np.random.default_rng(0).random((1, L)) < 0.8).at[:, 0].set(True), random(1, L, 128)
    compacted = compaction.Compaction(*[POSITIONS] * 4, overflow_B=PartitionSpec(("data", "fsdp")))
    rows = functools.partial(gather_tpu, interpret=True)
    back = functools.partial(spread_tpu, interpret=True)

    def split(x):
        c = dispatch.compact(start, capacity)
        z = parts(functools.partial(sequence.gather, rows), 8, (POSITIONS, compacted))(x, c)
        return parts(functools.partial(sequence.spread, back, block=BLOCK), 8, (POSITIONS, compacted))(z * z, c)

    def whole(x):
        c = compaction.compact(start, capacity)
        z = compaction.gather(x, c)
        return compaction.spread(z * z, c)

    assert_same(split, whole, (x,), 8)


def moved(f, w, *arguments):
    """{kind: bytes} that one device receives in f(w, ...) and its gradient by w, weights whole and positions split."""
    arguments = [jax.device_put(v, jax.sharding.NamedSharding(mesh(8), POSITIONS)) for v in arguments]
    whole = jax.sharding.NamedSharding(mesh(8), PartitionSpec())
    w = jax.device_put(w, whole)

    def total(w, *arguments):
        with dispatch.compiled_for(mesh(8)):
            return jnp.sum(jnp.square(f(w, *arguments)))

    text = jax.jit(jax.grad(total), out_shardings=whole).lower(w, *arguments).compile().as_text()
    return {kind: size for kind, (_, size) in read(text).collectives.items()}


def test_the_linear_scan_gathers_nothing():
    """States alone; of a Mamba-2 step: tests/training/devices_split.py."""
    B, L, D = 4, 1024, 32
    kinds = moved(lambda w, a, b: dispatch.linear_scan(a, b * w), jnp.ones(D), random(B, L) ** 2 / 16, random(B, L, D))
    assert {kind.split()[0] for kind in kinds} == {"collective-permute", "all-reduce"}, kinds
    assert sum(kinds.values()) < B * L // 8 * D * 4, kinds  # one activation of a part


def test_compaction_moves_compacted_arrays_only():
    B, L, D, C = 4, 1024, 32, 128

    def f(w, x, start):
        c = dispatch.compact(start, C)
        return dispatch.spread(dispatch.gather(x * w, c), c)

    start = jnp.asarray(np.random.default_rng(0).random((B, L)) < 0.1)
    kinds = moved(f, jnp.ones(D), random(B, L, D), start)
    assert sum(kinds.values()) < 4.1 * B * C * D * 4, kinds  # with counts; a gather and a scatter of them each way
