"""Where tests find arrays and data that are too large, or not ours, to commit."""

import pathlib

import numpy as np
import pytest

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def fixture(name):
    """Arrays of `../shared/fixtures/<name>` (from the original implementations), or skip."""
    path = SHARED / "fixtures" / name
    if not path.exists():
        pytest.skip(f"needs ../shared/fixtures/{name}, which is not on this machine")
    return np.load(path, allow_pickle=False)


def data(name):
    """Path of `../shared/data/<name>`, or skip."""
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{name}, which is not on this machine")
    return path
