"""Schedules, decay groups, stage multipliers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.models.build import hierarchy
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.hnet_checkpoint import to_state_dict
from lmlab.training.optimizers import (
    WSD,
    AdamW,
    Cosine,
    Linear,
    decays,
    hnet_multipliers,
    path_names,
    released_decays,
    stage_of,
)
from tests.paths import SHARED


def test_wsd():
    factor = WSD(warmup=0.1, decay=0.2)(1000)
    values = np.array([factor(s) for s in range(1001)])
    assert (np.diff(values[:100]) > 0).all() and values[99] == 1
    assert (values[99:801] == 1).all()
    np.testing.assert_allclose(values[850], 1 - (50 / 200) ** 0.5, rtol=1e-5)
    assert values[1000] == 0


def test_cosine():
    factor = Cosine(warmup=0.1, floor=0.1)(1000)
    np.testing.assert_allclose([factor(99), factor(550), factor(1000)], [1.0, 0.55, 0.1], rtol=1e-5)


def test_linear():
    factor = Linear(warmup=0.1)(1000)
    np.testing.assert_allclose([factor(0), factor(49), factor(99), factor(1000)], [0.01, 0.5, 1.0, 0.0], rtol=1e-5)
    assert factor(550) == pytest.approx(450 / 901)
    assert Linear()(100)(0) == 1 and Linear()(100)(50) == 0.5


def test_hnet_multipliers_are_the_papers():
    """Values computed from arXiv 2507.07955, appendix C."""
    np.testing.assert_allclose(hnet_multipliers((6.0,), (1024, 1536)), [2.63, 0.876], rtol=3e-3)
    np.testing.assert_allclose(hnet_multipliers((3.0, 3.0), (1024, 1536, 2048)), [3.03, 1.43, 0.715], rtol=3e-3)


@pytest.fixture(scope="module")
def params():
    layout = ["m1", ["T1", ["T1"], "T1"], "m1"]
    return init(LanguageModel(256, hierarchy(layout, (32, 64, 96), (0, 64, 64), n_heads=2)), jax.random.key(0))


def named(params, f):
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return {"/".join(path_names(path)): f(path, leaf) for path, leaf in flat}


def test_stages(params):
    stage = named(params, lambda path, _: stage_of(path))
    assert stage["embedding"] == stage["head"] == stage["backbone/chunker/wq"] == 0
    assert stage["backbone/widen"] == stage["backbone/inner/unpool/residual/kernel"] == 1
    assert stage["backbone/inner/widen"] == stage["backbone/inner/inner/norm/scale"] == 2


def test_decay_groups(params):
    decay = named(params, decays)
    assert decay["embedding"] and decay["backbone/chunker/wq"] and decay["backbone/encoder/layers_0/mixer/in_proj"]
    for name, value in decay.items():
        if name.endswith(("scale", "bias", "A_log", "/D", "dt_bias", "widen", "norm")):
            assert not value, name


def test_groups_equal_the_released_ones():
    """Every parameter's group, decay as "released" and multiplier, against the original's own listing; and the
    default differs only in vectors."""
    path = SHARED / "fixtures" / "hnet_param_groups.json"
    if not path.exists():
        pytest.skip("needs ../shared/fixtures/hnet_param_groups.json, which is not on this machine")
    released = {
        name: (group["weight_decay"] != 0.0, group["lr_multiplier"])
        for group in json.loads(path.read_text())
        for name in group["params"]
    }
    layout = ["m2", ["T1m1", ["T2"], "m1T1"], "m2"]
    model = LanguageModel(256, hierarchy(layout, (64, 128, 192), (0, 128, 192), n_heads=4))
    params = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    groups, leaves = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        groups.append((released_decays(path, leaf), (3.0, 1.7, 0.9)[stage_of(path)], decays(path, leaf)))
        leaves.append(np.full(leaf.shape, len(leaves)))
    state = to_state_dict(jax.tree.unflatten(jax.tree.structure(params), leaves), model)
    ours = {name: groups[int(np.ravel(value)[0])] for name, value in state.items()}
    assert {name: group[:2] for name, group in ours.items()} == released
    differing = [name for name, (as_released, _, ours_decays) in ours.items() if as_released != ours_decays]
    assert differing and all(state[name].ndim == 1 for name in differing)


def test_update_is_adamw_with_multipliers(params):
    grads = jax.tree.map(jnp.ones_like, params)
    norm = np.sqrt(sum(g.size for g in jax.tree.leaves(grads)))
    make = AdamW(0.1, WSD(0.0, 0.5), weight_decay=0.2, clip=1.0, stage_multipliers=(3.0, 2.0, 1.0)).build(100)
    updates, _ = jax.jit(make.update)(grads, make.init(params), params)
    g = 1 / norm  # after clipping; Adam's first step is g / (|g| + eps)
    adam = g / (g + 1e-8)

    def check(path, u, p):
        expected = -0.1 * (3.0, 2.0, 1.0)[stage_of(path)] * (adam + (0.2 * p if decays(path, p) else 0.0))
        np.testing.assert_allclose(u, jnp.broadcast_to(expected, u.shape), rtol=1e-4, atol=1e-7)

    jax.tree_util.tree_map_with_path(check, updates, params)


def test_missing_multiplier_is_an_error(params):
    make = AdamW(0.1, stage_multipliers=(1.0,)).build(10)
    with pytest.raises(UserError, match="one per stage"):
        make.update(params, make.init(params), params)
