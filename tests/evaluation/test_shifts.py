import dataclasses

import jax
import pytest

from lmlab.data.bake import bake, stream_of
from lmlab.data.corpora import Files, split_of
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import Data, beginnings, bits_per_byte
from lmlab.evaluation.shifts import CharacterEdits, OtherCorpus
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.text.bytes import ByteTokenizer


def files(folder):
    return Files(str(folder), validation=0.2, test=0.2)


@pytest.fixture
def read(tmp_path):
    for name, words in (("own", "the cat sat on the mat. "), ("other", "0123 4567 89. ")):
        (tmp_path / name).mkdir()
        for i in range(60):
            (tmp_path / name / f"{i}.txt").write_text(f"{i} " + words * 10)
    own = files(tmp_path / "own")
    data = Data(bake(own, ByteTokenizer(), str(tmp_path / "cache")), 32, 4)
    model = LanguageModel(256, transformer(1, 16, 32, 2))
    params = jax.tree.map(lambda x: 5 * x, init(model, jax.random.key(0), 32))  # predictions that differ
    return tmp_path, model, params, data


def test_without_edits_and_of_its_own_corpus_it_is_the_text_as_it_is(read):
    folder, model, params, data = read
    texts = beginnings(data.baked.documents("test"), 2000)
    bits, _, _ = bits_per_byte(model, params, data.windows_of(stream_of(texts, ByteTokenizer())), data)
    edits = CharacterEdits(max_bytes=2000, rates=(0.4,))(model, params, data)
    assert edits["edits_0"] == pytest.approx(bits, rel=1e-6)
    assert set(edits) == {"edits_0", "edits_40"} and edits["edits_40"] != edits["edits_0"]
    assert OtherCorpus("own", files(folder / "own"), 2000)(model, params, data)["own"] == pytest.approx(bits, rel=1e-6)


def test_another_corpus_is_read_itself(read):
    folder, model, params, data = read
    (found,) = OtherCorpus("digits", files(folder / "other"), 10**6)(model, params, data).values()
    every = [path.read_bytes() for path in (folder / "other").iterdir()]
    texts = sorted(text for text in every if split_of(text, 0.2, 0.2) == "test")
    assert 1 < len(texts) < 30
    nats = covered = 0
    for text in texts:
        bits, source_bytes, _ = bits_per_byte(model, params, data.windows_of(stream_of([text], ByteTokenizer())), data)
        nats, covered = nats + bits * source_bytes, covered + source_bytes
    assert found == pytest.approx(nats / covered, rel=1e-2)  # but for where windows begin
    own = bits_per_byte(model, params, data.windows("test"), data)[0]
    assert abs(found - own) > 0.1


def test_a_corpus_without_a_test_split_is_refused_beforehand(read):
    none = dataclasses.replace(files(read[0] / "other"), test=0.0)
    with pytest.raises(UserError, match="digits, falls into its test split"):
        OtherCorpus("digits", none).check(None)
