import jax
import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.corruptions import SpanCorruption
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data
from lmlab.evaluation.other_source import OtherSource
from lmlab.models.encoder_decoder import t5
from lmlab.models.language_model import init
from lmlab.text.bytes import ByteTokenizer
from tests.training import tiny


def test_only_who_reads_the_source_loses_by_another(tmp_path):
    baked = bake(tiny.corpus(tmp_path), ByteTokenizer(), str(tmp_path / "cache"))
    data = Data(baked, 48, 4, SpanCorruption(noise=0.3, whole=True))
    model = t5(288, (1, 1), 16, 32, 2, 8)
    params = jax.tree.map(lambda x: 2 * x, init(model, jax.random.key(0)))
    found = OtherSource(batches=10**6)(model, params, data)
    assert found["own_source"] == pytest.approx(BitsPerByte("test")(model, params, data)["bpb"], rel=1e-6)
    assert abs(found["other_source"] - found["own_source"]) > 1e-4
    params["params"]["decoder"]["blocks_0"]["cross"]["wo"] = np.zeros_like(params["params"]["decoder"]["blocks_0"]["cross"]["wo"])
    blind = OtherSource()(model, params, data)
    assert blind["other_source"] == pytest.approx(blind["own_source"], rel=1e-6)
