import jax
import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.mixture import Mixture
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data
from lmlab.evaluation.generation import Generation
from lmlab.evaluation.texts import EachText
from lmlab.models.build import hierarchy, transformer
from lmlab.models.chunkers import FixedStride
from lmlab.models.language_model import LanguageModel, init
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for name, letters in (("one", b"aab b"), ("two", b"xyzzy")):
        (path / name).mkdir()
        (path / name / "text").write_bytes(bytes(rng.choice(list(letters), 20_000).astype(np.uint8)))
    return str(path)


def data_of(folder, tokenizer, cache):
    return Data(bake(Mixture(folder, 20_000, 200, 0.2, 0.2), tokenizer, cache), 64, 4)


def test_texts_sum_to_the_whole(folder, tmp_path):
    data = data_of(folder, ByteTokenizer(), tmp_path)
    model = LanguageModel(256, transformer(1, 16, 32, n_heads=2))
    params = init(model, jax.random.key(0))
    each = EachText("test")(model, params, data)
    sizes = {text: sum(map(len, documents)) for text, documents in data.baked.texts("test").items()}
    # Windows begin elsewhere in a text alone, so that the context of some bytes differs a little.
    mean = sum(each[f"{text}/bpb"] * size for text, size in sizes.items()) / sum(sizes.values())
    assert mean == pytest.approx(BitsPerByte("test")(model, params, data)["bpb"], rel=2e-3)
    assert each["one/bytes_per_chunk"] == each["two/bytes_per_chunk"] == 1.0


def test_chunks_are_those_of_each_text(folder, tmp_path):
    layout = hierarchy(["T1", ["T1"], "T1"], (16, 16), (32, 32), 2, 64, chunker=lambda width, target: FixedStride(4))
    model = LanguageModel(256, layout)
    each = EachText("test")(model, init(model, jax.random.key(0)), data_of(folder, ByteTokenizer(), tmp_path))
    assert each["one/bytes_per_chunk"] == pytest.approx(4, rel=0.1)

    data = data_of(folder, BPE(300), tmp_path)
    model = LanguageModel(300, transformer(1, 16, 32, n_heads=2))
    each = EachText("test")(model, init(model, jax.random.key(0)), data)
    for text, documents in data.baked.texts("test").items():
        tokens = sum(len(data.baked.tokenizer.encode(d)) for d in documents)
        assert each[f"{text}/bytes_per_chunk"] == sum(map(len, documents)) / tokens > 1


def test_generation_begins_with_every_text_in_turn(folder, tmp_path, monkeypatch):
    from lmlab.evaluation import generation

    data, prompts = data_of(folder, ByteTokenizer(), tmp_path), []
    monkeypatch.setattr(generation, "generate", lambda model, params, p, *a: prompts.append(p) or np.zeros((4, 2), int))
    Generation("test", rows=4, prompt=20, new=2, rounds=1)(None, None, data)
    kinds = [bytes(p[1:].astype(np.uint8)).translate(None, b"ab ") == b"" for p in prompts[0]]  # of the text "one"
    assert kinds == [True, False, True, False] and len({bytes(p) for p in prompts[0]}) == 4


def test_generation_counts_bytes_not_tokens(folder, tmp_path, monkeypatch):
    from lmlab.evaluation import generation

    seconds = iter(range(100))
    monkeypatch.setattr(generation.time, "perf_counter", lambda: float(next(seconds)))  # each round takes a second
    data = data_of(folder, BPE(300, 2.0), tmp_path)
    model = LanguageModel(300, transformer(1, 16, 32, n_heads=2))
    params, seen = init(model, jax.random.key(0)), []
    real = generation.generate
    monkeypatch.setattr(generation, "generate", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1])
    found = Generation("test", rows=3, prompt=20, new=16, rounds=3)(model, params, data)
    lengths = data.baked.tokenizer.token_lengths()
    assert [s.shape for s in seen] == [(3, 8)] * 4
    assert found["generated_bytes_per_second"] == np.median([lengths[s].sum() for s in seen[1:]])
