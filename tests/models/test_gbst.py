"""Charformer's soft blocks: equal to plain loops, to what the lucidrains implementation shares with the original, and
blind to padding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.models.gbst import GBST, MeanPool, block_means, calibrated, candidates
from tests.paths import fixture


def rows(B=2, L=11, D=8, seed=0):
    rng = np.random.default_rng(seed)
    valid = np.arange(L) < np.array([[L], [7]])[:B]
    return rng.normal(size=(B, L, D)).astype(np.float32), valid


def test_candidates_are_means_of_blocks():
    x, valid = rows()
    got = candidates(x, valid, (1, 2, 3, 4))
    for b, t, w in itertools.product(range(2), range(11), (1, 2, 3, 4)):
        block = [s for s in range(t // w * w, min(11, t // w * w + w)) if valid[b, s]]
        expected = x[b, block].mean(axis=0) if block else np.zeros(8)
        np.testing.assert_allclose(got[b, t, w - 1], expected, atol=1e-6)


@pytest.mark.parametrize("calibrate", [False, True])
def test_equals_the_equations(calibrate):
    """Mesh TensorFlow's order: a score per width, calibrated while raw, then the softmax over widths."""
    x, valid = rows(B=1)
    front = GBST(8, 2, kernel=5, widths=(1, 2, 3), calibrate=calibrate)
    ids = valid.astype(np.int32)
    params = jax.jit(front.init)(jax.random.key(0), x, None, ids)["params"]
    params = {k: v.unbox() for k, v in params.items()}
    y, out_ids, _ = jax.jit(front.apply)({"params": params}, x, None, ids)
    padded = np.pad(x[0], ((2, 2), (0, 0)))
    h = sum(padded[k : k + 11] @ params["conv"][k] for k in range(5))[None]
    blocks = np.asarray(candidates(h, valid, (1, 2, 3)))[0]
    scores = np.einsum("lwd,wd->lw", blocks, params["score"])
    if calibrate:
        similar = np.exp(scores @ scores.T)
        scores = similar / similar.sum(axis=1, keepdims=True) @ scores
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    mixed = np.einsum("lw,lwd->ld", p, blocks)
    expected = [mixed[t : t + 2].mean(axis=0) for t in range(0, 11, 2)]
    np.testing.assert_allclose(y[0], expected, atol=1e-5)
    assert out_ids.tolist() == [[1] * 6]


@pytest.mark.parametrize("front", [MeanPool(8, 3), GBST(8, 2), GBST(8, 3, calibrate=True)])
def test_padding_changes_nothing(front):
    x, valid = rows()
    ids = valid.astype(np.int32)
    params = jax.jit(front.init)(jax.random.key(0), x, None, ids)
    apply = jax.jit(front.apply)
    y, out_ids, _ = apply(params, x, None, ids)
    garbage = np.where(valid[..., None], x, 9.0)
    np.testing.assert_allclose(apply(params, garbage, None, ids)[0], y, atol=1e-6)
    alone, alone_ids, _ = apply(params, x[1:, :7], None, ids[1:, :7])
    np.testing.assert_allclose(y[1, : alone.shape[1]], alone[0], atol=1e-6)
    assert out_ids[1].sum() == alone_ids.sum() == front.states(7)


@pytest.mark.parametrize("name", ["charformer_gbst_consensus0.npz", "charformer_gbst_consensus1.npz"])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_and_pooling_equal_lucidrains(name, masked):
    """Blocks, mixture and pooling are the same there. Its convolution (depthwise, then pointwise, looking ahead), its one
    biased scorer for all widths, and calibration behind the softmax are not, and are written out here."""
    z = fixture(name)
    w = {k.removeprefix("w/"): z[k] for k in z.files if k.startswith("w/")}
    x = w["token_emb.weight"][z["x"]]
    valid = z["mask"] if masked else np.ones_like(z["mask"])
    taps = w["pos_conv.2.conv.weight"][:, 0]
    ahead = np.pad(x, ((0, 0), (0, taps.shape[1] - 1), (0, 0)))
    h = sum(ahead[:, k : k + x.shape[1]] * taps[:, k] for k in range(taps.shape[1])) + w["pos_conv.2.conv.bias"]
    h = h @ w["pos_conv.2.proj_out.weight"][..., 0].T + w["pos_conv.2.proj_out.bias"]
    widths = tuple(range(1, taps.shape[1] + 1))
    blocks = candidates(jnp.asarray(h), valid, widths)
    scores = (blocks @ w["score_fn.0.weight"].T)[..., 0] + w["score_fn.0.bias"]
    p = jax.nn.softmax(scores, axis=-1)
    if name.endswith("1.npz"):
        p = calibrated(p, valid)
    y = block_means(jnp.einsum("blw,blwd->bld", p, blocks), valid, 4)
    full = np.broadcast_to(np.arange(z["y"].shape[1]) < x.shape[1] // 4, z["y"].shape[:2])
    # Without a mask, its padding counts: in the last group, which is not full, and a little in the calibration.
    expected, kept = (z["y_masked"], z["mask_out"]) if masked else (z["y"], full)
    np.testing.assert_allclose(np.asarray(y)[kept], expected[kept], atol=1e-5 if masked else 2e-5)
