"""Scripts are compared on the whole parallel text, whatever share of each the scored split has."""

import dataclasses

import jax
import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.corpora import Files
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.scripts import ScriptParity
from lmlab.models.build import hierarchy
from lmlab.models.chunkers import FixedStride
from lmlab.models.language_model import LanguageModel, init
from lmlab.text.bytes import ByteTokenizer

LATIN, CYRILLIC = "word " * 40, "слово " * 40  # 200 and 440 bytes


def test_disparity_is_of_the_parallel_text_not_of_the_split(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(30):
        (folder / f"en{i}.txt").write_text(f"{LATIN}{i}")
        (folder / f"ru{i}.txt").write_text(f"{CYRILLIC}{i}")
    backbone = hierarchy(
        ["t1", ["T1"], "t1"], (16, 16), (0, 32), n_heads=2, chunker=lambda width, target: FixedStride(4), target=4.0
    )
    model = LanguageModel(256, backbone)
    data = Data(bake(Files(str(folder), validation=0.1, test=0.2), ByteTokenizer(), str(tmp_path)), 64, 4)
    parity = ScriptParity("test", least=300)
    result = parity(model, init(model, jax.random.key(0)), data)
    texts = [d for split in ("train", "validation", "test") for d in data.baked.documents(split)]
    sizes = {name: sum(len(d) for d in texts if (d[0] > 127) == (name == "cyrillic")) for name in ("latin", "cyrillic")}
    chunks = [sizes[name] / result[f"{name}_chunk"] for name in sizes]
    assert result["latin_chunk"] == pytest.approx(4, rel=0.1) and "devanagari_chunk" not in result
    assert result["disparity"] == pytest.approx(max(chunks) / min(chunks), rel=0.06)
    held = [sum((d[0] > 127) == cyrillic for d in data.baked.documents("test")) for cyrillic in (False, True)]
    assert held[0] != held[1] and np.isfinite(result["cyrillic_bpb"])
    # Of a script with too little held out nothing is said, nor are the others compared as if it were not there.
    more, less = sorted(sizes, key=lambda name: -result[f"{name}_bytes"])
    for least, scripts in ((int(result[f"{less}_bytes"]) + 1, {more}), (10**6, set())):
        few = dataclasses.replace(parity, least=least)(model, init(model, jax.random.key(0)), data)
        assert {name.split("_")[0] for name in few} == scripts
