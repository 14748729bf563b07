"""Initial weights are distributed as the original's, parameter by parameter."""

import json

import jax
import numpy as np
import pytest

from lmlab.models.build import hierarchy
from lmlab.models.hnet_checkpoint import to_state_dict
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.unpool import Smooth
from tests.paths import SHARED

LAYOUT = ["m2", ["T1m1", ["T2"], "m1T1"], "m2"]


def model(released_bias):
    unpool = lambda width: Smooth(width, released_bias)  # noqa: E731
    return LanguageModel(256, hierarchy(LAYOUT, (256, 256, 512), (0, 512, 1024), n_heads=4, d_state=32, unpool=unpool))


def test_statistics_equal_the_originals():
    """Means and standard deviations within five standard errors; what is constant there is the same constant here."""
    path = SHARED / "fixtures" / "hnet_init_stats.json"
    if not path.exists():
        pytest.skip("needs ../shared/fixtures/hnet_init_stats.json, which is not on this machine")
    reference = json.loads(path.read_text())
    ours = model(released_bias=True)
    state = to_state_dict(init(ours, jax.random.key(0)), ours)
    assert set(state) == set(reference)
    for name, expected in reference.items():
        value = np.asarray(state[name], np.float64)
        if name.endswith(("q_proj_layer.weight", "k_proj_layer.weight")):
            np.testing.assert_array_equal(value, np.eye(len(value)))
        assert list(value.shape) == expected["shape"], name
        if expected["std"] == 0:
            assert (value == expected["mean"]).all(), name
            continue
        error = 5 * expected["std"] / value.size**0.5
        assert abs(value.mean() - expected["mean"]) < 2 * error, name
        assert abs(value.std() - expected["std"]) < 2 * error, name


def test_the_residual_starts_as_nothing_by_default():
    params = init(model(released_bias=False), jax.random.key(0))["params"]["backbone"]
    for unpool in (params["unpool"], params["inner"]["unpool"]):
        assert not np.any(unpool["residual"]["bias"]) and not np.any(unpool["residual"]["kernel"])
