"""Agreement with dynamic token pooling's released code: pooling, drawing, prior, and whole tiny models with gradients.

There u and v of the relative attention are shared by all layers: here each layer's gradients add up to theirs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from lmlab import experiment
from lmlab.kernels.compaction import compact
from lmlab.models.boundaries import BoundaryPredictor, GumbelBoundaries, binomial_nats, relaxed_bernoulli
from lmlab.models.build import hourglass
from lmlab.models.chunkers import Routing
from lmlab.models.language_model import LanguageModel, count_parameters, init
from lmlab.models.segments import SegmentMean, StraightThroughMean
from lmlab.models.transformer_xl import TransformerXL
from lmlab.objectives.boundaries import Cuts, EntropySpikes, spikes
from lmlab.training.precision import compute_copy, compute_weights
from tests.paths import fixture

D, HEADS, FF, V = 16, 2, 32, 27


def weights_of(arrays, prefix):
    return {k[len(prefix) :]: arrays[k] for k in arrays.files if k.startswith(prefix)}


def layer_params(w, at):
    attention, mlp = f"{at}.dec_attn.", f"{at}.pos_ff."
    heads = lambda x: x.reshape(*x.shape[:-1], HEADS, D // HEADS)  # noqa: E731
    return {
        "mixer": {
            "wqkv": heads(w[attention + "qkv_net.weight"].T.reshape(D, 3, D)),
            "bqkv": heads(w[attention + "qkv_net.bias"].reshape(3, D)),
            "wr": heads(w[attention + "r_net.weight"].T),
            "br": heads(w[attention + "r_net.bias"]),
            "u": w["r_w_bias"],
            "v": w["r_r_bias"],
            "wo": w[attention + "o_net.weight"].T.reshape(HEADS, D // HEADS, D),
            "bo": w[attention + "o_net.bias"],
        },
        "mlp": {
            "wi": w[mlp + "CoreNet.0.weight"].T,
            "bi": w[mlp + "CoreNet.0.bias"],
            "wo": w[mlp + "CoreNet.3.weight"].T,
            "bo": w[mlp + "CoreNet.3.bias"],
        },
        "norm1": norm_params(w, attention + "layer_norm"),
        "norm2": norm_params(w, mlp + "layer_norm"),
    }


def norm_params(w, at):
    return {"scale": w[at + ".weight"], "shift": w[at + ".bias"]}


def model_params(w):
    if "null_group" not in w:
        backbone = {f"layers_{i}": layer_params(w, f"layers.0.{i}") for i in range(3)}
    else:
        at, predictor = "boundary_predictor.boundary_predictor.", {}
        if at + "0.weight" in w:
            predictor = {
                "wi": w[at + "0.weight"].T,
                "bi": w[at + "0.bias"],
                "wo": w[at + "2.weight"],
                "bo": w[at + "2.bias"],
            }
        backbone = {
            "encoder": {"layers_0": layer_params(w, "layers.0.0")},
            "chunker": predictor,
            "pool": {"null": w["null_group"][0, 0], "norm": norm_params(w, "down_ln")},
            "inner": {f"layers_{i}": layer_params(w, f"layers.1.{i}") for i in range(2)},
            "decoder": {"layers_0": layer_params(w, "layers.2.0")},
        }
    return {"params": {"embedding": w["word_emb.weight"], "head": w["final_cast.weight"].T, "backbone": backbone}}


OBJECTIVES = {"none": None, "entropy": EntropySpikes(released=True), "unigram": Cuts(released=True)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_whole_model(name):
    """Without `whitespaces`: its first position is a boundary, which the code says never happens and matters nothing."""
    arrays = fixture(f"dtp_lm_{name}.npz")
    w = weights_of(arrays, "w/")
    if name == "none":
        backbone = TransformerXL(3, D, FF, HEADS)
    else:
        backbone = hourglass((1, 2, 1), D, FF, HEADS, BoundaryPredictor(D, FF), SegmentMean)
    model = LanguageModel(V, backbone)
    params, bias = model_params(w), w["final_cast.bias"]
    assert jax.tree.structure(params) == jax.tree.structure(jax.eval_shape(lambda: init(model, jax.random.key(0))))
    tokens, targets = arrays["data"].T.astype(np.int32), arrays["target"].T
    batch = {"segment_ids": np.ones_like(tokens)}
    if name == "unigram":
        batch["cuts"] = arrays["boundaries_gt"].T

    @jax.jit
    def loss(params):
        output = model.apply(params, tokens)
        output = output._replace(logits=output.logits + bias)
        nats = -jnp.take_along_axis(jax.nn.log_softmax(output.logits), targets[..., None], axis=-1)[..., 0]
        taught = OBJECTIVES[name].auxiliary(output, batch) if OBJECTIVES[name] else 0.0
        return jnp.mean(nats) + taught, (output, nats, taught)

    (_, (output, nats, taught)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(output.logits, arrays["logits"].reshape(*arrays["data"].shape, V).swapaxes(0, 1), atol=1e-5)
    np.testing.assert_allclose(nats, arrays["loss"].T, atol=1e-5)
    np.testing.assert_allclose(taught, arrays["loss_boundaries"], atol=1e-6)
    if name != "none":
        np.testing.assert_allclose(output.stages[0].probability_BL, arrays["soft_boundaries"], atol=1e-6)
        hard = arrays["hard_boundaries"].astype(bool)
        hard[:, 0] = True
        np.testing.assert_array_equal(output.stages[0].start_BL, hard)
    theirs = model_params(weights_of(arrays, "g/"))
    shared = {"u": 0.0, "v": 0.0}
    for path, ours in jax.tree_util.tree_leaves_with_path(grads):
        expected = functools.reduce(lambda tree, key: tree[key.key], path, theirs)
        if path[-1].key in shared:
            shared[path[-1].key] += ours
            total = expected
            shared[path[-1].key + "_theirs"] = total
        else:
            np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-5, err_msg=jax.tree_util.keystr(path))
    for name in "uv":
        np.testing.assert_allclose(shared[name], shared[name + "_theirs"], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("weights", [compute_weights, compute_copy])
def test_products_run_in_bfloat16(weights):
    """No float32 bias makes one of them float32, in training or in evaluation; shapes are unlike, to tell them apart."""
    stack = TransformerXL(1, D, FF, HEADS)
    x, ones = jnp.zeros((2, 8, D)), jnp.ones((2, 8), jnp.int32)
    params = jax.eval_shape(lambda: meta.unbox(stack.init(jax.random.key(0), x, ones, ones)))
    cast = lambda p: weights(p, "bfloat16")  # noqa: E731
    traced = jax.make_jaxpr(lambda p: stack.apply(cast(p), x, ones, ones)[0])(params)
    products = list(dots(traced.jaxpr))
    assert len(products) == 8  # q, k, v at once; r; two of scores; values; out; two of the MLP
    assert {v.aval.dtype for e in products for v in e.invars} == {jnp.dtype(jnp.bfloat16)}


def dots(jaxpr):
    for e in jaxpr.eqns:
        if e.primitive.name == "dot_general":
            yield e
        for inner in jax.tree.leaves(list(e.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


def segments(arrays, pool=SegmentMean):
    """(hidden [B, L, D], starts, compaction, the pool's parameters without its norm)."""
    hidden = jnp.swapaxes(arrays["hidden"], 0, 1)
    boundary = arrays["boundaries"].astype(bool)
    start = boundary | (np.arange(boundary.shape[1]) == 0)
    return hidden, start, compact(jnp.asarray(start), boundary.shape[1])


def test_downsampling_behind_the_null_group():
    """Row 0 of the fixture has a boundary at its first position, which is never there with BOS in front."""
    arrays = fixture("dtp_shortening.npz")
    hidden, start, c = segments(arrays)
    pool = SegmentMean(hidden.shape[-1])
    ones = jnp.ones(start.shape, jnp.int32)
    routing = Routing(jnp.asarray(start), jnp.asarray(start, jnp.float32), 0.0)
    params = pool.init(jax.random.key(0), hidden, routing, c, ones)
    params["params"]["null"] = params["params"]["null"].replace(value=jnp.asarray(arrays["null_group"][0, 0]))
    ours = pool.apply(params, hidden, routing, c, ones)
    expected = jnp.swapaxes(arrays["downsampled"], 0, 1)
    normed = (expected - expected.mean(-1, keepdims=True)) / jnp.sqrt(expected.var(-1, keepdims=True) + 1e-5)
    for b in (1, 2):
        n = int(start[b].sum())
        np.testing.assert_allclose(ours[b, :n], normed[b, :n], atol=1e-5)


def test_drawing_and_prior_and_spikes():
    arrays = fixture("dtp_shortening.npz")
    soft = relaxed_bernoulli(jnp.asarray(arrays["bp_logits"]), jnp.asarray(arrays["gumbel_u"]), 0.5)
    np.testing.assert_allclose(soft, arrays["gumbel_soft"], atol=1e-5)
    np.testing.assert_array_equal(soft > 0.5, arrays["gumbel_hard"].astype(bool))
    counts, n = arrays["binom_in"].sum(1), arrays["binom_in"].shape[1]
    nats = jnp.mean(binomial_nats(counts, n, 0.2)) / n
    np.testing.assert_allclose(nats, arrays["binom_loss_prior0.2"], rtol=1e-5)
    values = jnp.asarray(arrays["spikes_in"].T)
    np.testing.assert_array_equal(spikes(values, jnp.ones(values.shape, jnp.int32)), arrays["spikes_left2"].T)


def test_boundaries_learn_through_the_mean_as_through_the_original_assignment():
    """The gradient at every boundary equals that of the released soft assignment, written out densely."""
    rng = np.random.default_rng(0)
    L, width = 14, 4
    hidden = jnp.asarray(rng.normal(size=(1, L, width)), jnp.float32)
    start = np.isin(np.arange(L), [0, 3, 4, 9])[None]
    weight = jnp.asarray(rng.normal(size=(1, 4, width)), jnp.float32)
    pool = StraightThroughMean(width)
    c, ones = compact(jnp.asarray(start), 4), jnp.ones((1, L), jnp.int32)
    routing = lambda p: Routing(jnp.asarray(start), p, 0.0)  # noqa: E731
    p = jnp.asarray(start, jnp.float32).at[0, 0].set(0.0)
    params = jax.jit(pool.init)(jax.random.key(0), hidden, routing(p), c, ones)

    def dense(p):
        index = jnp.cumsum(p, axis=1) - p
        away = jnp.arange(3.0) - index[..., None]
        assigned = jnp.where(away == 0, 1 - away, 0.0)
        means = jnp.einsum("bld,bls->bsd", hidden, assigned / (assigned.sum(1, keepdims=True) + 1e-9))
        spread = means - means.mean(-1, keepdims=True)
        return jnp.sum(spread / jnp.sqrt((spread**2).mean(-1, keepdims=True) + 1e-5) * weight[:, 1:])

    pooled = jax.jit(lambda p: pool.apply(params, hidden, routing(p), c, ones)[:, 1:])
    ours = jax.jit(jax.grad(lambda p: jnp.sum(pooled(p) * weight[:, 1:])))(p)
    expected = jax.jit(jax.grad(dense))(p)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_over_many_keys_a_boundary_comes_as_often_as_its_probability_says():
    chunker = GumbelBoundaries(4, 8)
    rng = np.random.default_rng(0)
    h = jnp.asarray(rng.normal(size=(2, 8, 4)), jnp.float32)
    tokens, segments = np.zeros((2, 8), np.int32), np.ones((2, 8), np.int32)
    params = chunker.init(jax.random.key(0), h, tokens, segments)
    drawn = jax.jit(jax.vmap(lambda key: chunker.apply(params, h, tokens, segments, rngs={"noise": key}).start_BL))
    keys = jax.random.split(jax.random.key(1), 2000)
    starts = np.asarray(drawn(keys))
    np.testing.assert_array_equal(starts, drawn(keys))
    p = np.asarray(jax.nn.sigmoid(chunker.apply(params, h, method="logits")[..., 0]))
    assert np.ptp(p) > 0.15
    np.testing.assert_allclose(starts.mean(0)[:, 1:], p[:, 1:], atol=0.05)


def test_paper_scale_has_the_parameters_that_are_known():
    """About 41M, and 1M of a boundary predictor."""
    found = experiment.load("token_pooling")
    plain, drawn = (count_parameters(found.resolve(arm, "paper").model) for arm in ("whitespace", "gumbel"))
    assert round(plain / 1e6) == 41 and 0.9e6 < drawn - plain < 1.1e6
