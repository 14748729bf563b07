import pytest

pytest.importorskip("seqio")

from lmlab.data.bake import bake
from lmlab.data.corpora import split_of
from lmlab.data.seqio_tasks import SeqioTask, register_tfds_task
from lmlab.errors import UserError
from lmlab.text import ByteTokenizer

TRAIN = ["één naïve 漢字 text %d" % i for i in range(60)] + ["held out", "twice", "twice", ""]


@pytest.fixture(scope="module")
def seqio():
    import seqio

    return seqio


def register(seqio, name, splits, preprocessors, features):
    import tensorflow as tf

    def dataset(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices({"text": splits[split]})

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=list(splits)),
        preprocessors=preprocessors,
        output_features=features,
    )


@pytest.fixture(scope="module")
def tasks(seqio):
    import tensorflow as tf

    def to_targets(data):
        return data.map(lambda x: {"targets": tf.strings.join(["<", x["text"], ">"])})

    features = {"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=True)}
    steps = [to_targets, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    splits = {"train": TRAIN, "test": ["held out", b"raw \xff\x00 bytes"]}
    register(seqio, "lmlab_bytes", splits, steps, features)
    register(seqio, "lmlab_more", {"train": ["only in the second", TRAIN[0]]}, steps, features)
    register(seqio, "lmlab_text", {"train": TRAIN}, [], {})
    register(seqio, "lmlab_no_train", {"test": TRAIN}, steps, features)
    seqio.MixtureRegistry.add("lmlab_mixture", [("lmlab_bytes", 9), ("lmlab_more", 1)])


def by_split(corpus):
    found = {}
    for document in corpus.documents():
        found.setdefault(document.split, []).append(document.data)
    return found


def test_keeps_preprocessing_bytes_and_splits(tasks):
    found = by_split(SeqioTask("lmlab_bytes", validation=0.3, test=0.3))
    assert found["test"] == [b"<held out>", b"<raw \xff\x00 bytes>"]
    rest = {f"<{text}>".encode() for text in TRAIN} - {b"<held out>"}
    assert set(found["train"]) | set(found["validation"]) == rest
    assert len(found["train"]) + len(found["validation"]) == len(rest)
    assert all(split_of(data, 0.3, 0) == split for split in ("train", "validation") for data in found[split])


def test_text_without_targets_is_split_by_content(tasks):
    found = by_split(SeqioTask("lmlab_text", validation=0.3, test=0.3))
    assert sorted(sum(found.values(), [])) == sorted({text.encode() for text in TRAIN} - {b""})
    assert all(split_of(data, 0.3, 0.3) == split for split in found for data in found[split])


def test_mixture_is_the_union(tasks):
    documents = [d.data for d in SeqioTask("lmlab_mixture").documents()]
    union = {d.data for name in ("lmlab_bytes", "lmlab_more") for d in SeqioTask(name).documents()}
    assert set(documents) == union and len(documents) == len(union)


def test_bakes(tasks, tmp_path):
    corpus = SeqioTask("lmlab_bytes", validation=0.3)
    baked = bake(corpus, ByteTokenizer(), tmp_path)
    for split, documents in by_split(corpus).items():
        assert list(baked.documents(split)) == documents
    assert list(baked.documents("test")) == [b"<held out>", b"<raw \xff\x00 bytes>"]


def test_mistakes_are_one_sentence(tasks):
    for name, module, message in [
        ("lmlab_byte", "", "no seqio Task or Mixture named lmlab_byte; did you mean lmlab_bytes"),
        ("something_else", "", "named something_else; is its module imported"),
        ("lmlab_bytes", "lmlab_no_such_module", "Cannot import lmlab_no_such_module"),
        ("lmlab_no_train", "", "has no train split, only test"),
    ]:
        with pytest.raises(UserError, match=message):
            list(SeqioTask(name, module).documents())


def test_tfds_dataset_on_disk(seqio, tmp_path):
    import tensorflow_datasets as tfds

    texts = {"train": ["één naïve 漢字 %d" % i for i in range(20)], "test": ["held out"]}

    class LmlabTiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}  # nothing to download

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"body": tfds.features.Text()}), description="tiny"
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in texts}

        def _generate_examples(self, split):
            for i, text in enumerate(texts[split]):
                yield i, {"body": text}

    LmlabTiny(data_dir=str(tmp_path)).download_and_prepare()
    register_tfds_task("lmlab_tfds", "lmlab_tiny:1.0.0", text_key="body", data_dir=str(tmp_path))
    found = by_split(SeqioTask("lmlab_tfds", validation=0))
    assert found["test"] == [b"held out"]
    assert sorted(found["train"]) == sorted(text.encode() for text in texts["train"])
