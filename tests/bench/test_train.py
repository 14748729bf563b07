import dataclasses
import sys

import numpy as np
import pytest

from lmlab.bench import peers, train
from lmlab.bench.matmul import MatmulRate, with_gradients
from lmlab.errors import UserError
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel


def tiny(**changes):
    model = LanguageModel(256, transformer(1, 16, 32, n_heads=2))
    return dataclasses.replace(train.byte_transformer(), model=model, batch_size=2, length=32, **changes)


def test_a_query_sees_half_the_keys_on_average():
    """4 d + 3 heads FLOPs per key and query, of which (L + 1) / 2 keys are seen."""
    full, seen = train.training_flops(tiny())
    np.testing.assert_allclose(full - seen, 3 * 2 * 32 * (32 - 33 / 2) * (4 * 16 + 3 * 2), rtol=1e-6)


def test_a_row_is_measured():
    row = train.measure("tiny", tiny(), MatmulRate(with_gradients([(8, 16, 32)])), 2)
    assert row["bytes_per_second"] == pytest.approx(64 / row["step_seconds"])
    assert 0 < row["of_matmul_seen"] < row["of_matmul"]


def test_the_peer_needs_torch(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LMLAB_BENCH_PYTHON", sys.executable)
    with pytest.raises(UserError, match=r"needs torch.*lmlab\[bench\]"):
        peers.Peer(train.SHAPE)
