import concurrent.futures
import dataclasses
import json
import multiprocessing
import os

import numpy as np
import pytest

import lmlab.data.bake as bake_module
from lmlab.data.bake import SPLITS, Shards, bake, stream_of
from lmlab.data.batches import Windows, evaluation_batches
from lmlab.data.corpora import Document, split_of
from lmlab.errors import UserError
from lmlab.text import BPE, ByteTokenizer, train_bpe

WORDS = ["byte ", "naïve ", "漢字 ", "x\n", "привет ", "(\xff) "]


@dataclasses.dataclass(frozen=True)
class Texts:
    """Documents of random words, from tiny to long, with raw BOS and EOS bytes among them."""

    count: int = 80
    validation: float = 0.2
    test: float = 0.2

    def documents(self):
        rng = np.random.default_rng(0)
        for i in range(self.count):
            text = "".join(rng.choice(WORDS, int(rng.integers(0, 120)))).encode()
            yield Document(str(i), b"%d" % i + text + b"\xfe\xff" * (i % 3))

    def fingerprint(self):
        return f"texts-{self.count}"


def of_split(corpus, split):
    return [d.data for d in corpus.documents() if split_of(d.data, corpus.validation, corpus.test) == split]


@pytest.mark.parametrize("recipe", [ByteTokenizer(), BPE(280)], ids=["bytes", "bpe"])
@pytest.mark.parametrize("shard_bytes", [2**20, 256], ids=["one_shard", "many_shards"])
def test_gives_back_every_document_of_every_split(recipe, shard_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(bake_module, "SHARD_BYTES", shard_bytes)
    monkeypatch.setattr(bake_module, "GROUP_BYTES", 1000)
    corpus = Texts()
    baked = bake(corpus, recipe, tmp_path)
    baked.verify()
    for split in SPLITS:
        documents = of_split(corpus, split)
        assert documents and list(baked.documents(split)) == documents
        assert baked.source_bytes(split) == sum(map(len, documents))
        stream = baked.split(split)
        assert (len(stream.tokens), len(stream.starts)) == tuple(
            baked.manifest["splits"][split][k] for k in ("tokens", "documents")
        )
        expected = stream_of(documents, baked.tokenizer)
        assert np.array_equal(stream.tokens[:], expected.tokens) and np.array_equal(stream.starts, expected.starts)
        assert isinstance(stream.tokens, Shards) == (shard_bytes == 256)
        batches = evaluation_batches(Windows(stream, 64, baked.tokenizer), 4)
        assert sum(int(b["target_bytes"].sum()) for b in batches) == baked.source_bytes(split)


def test_bpe_sees_the_train_split_alone(tmp_path):
    corpus = Texts()
    assert bake(corpus, BPE(280), tmp_path).tokenizer == train_bpe(of_split(corpus, "train"), 280)


def test_shards_slice_like_one_array():
    whole = np.arange(23, dtype=np.uint16)
    shards = Shards([whole[i : i + 5] for i in range(0, 23, 5)])
    assert len(shards) == 23
    for start in range(26):
        for stop in range(26):
            part = shards[start:stop]
            assert part.dtype == whole.dtype and np.array_equal(part, whole[start:stop])


def test_is_reused_and_changes_with_what_was_asked(tmp_path):
    baked = bake(Texts(), ByteTokenizer(), tmp_path)
    time = os.stat(os.path.join(baked.directory, "manifest.json")).st_mtime_ns
    again = bake(Texts(), ByteTokenizer(), tmp_path)
    assert again.directory == baked.directory
    assert os.stat(os.path.join(again.directory, "manifest.json")).st_mtime_ns == time
    others = [bake(Texts(test=0.3), ByteTokenizer(), tmp_path), bake(Texts(), BPE(270), tmp_path)]
    assert len({baked.directory, *(other.directory for other in others)}) == 3


def test_default_cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    assert bake(Texts(), ByteTokenizer()).directory.startswith(str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["train-00000.bin", "test-starts.npy", "tokenizer.json"])
def test_damage_is_found_and_named(name, tmp_path):
    baked = bake(Texts(), BPE(280), tmp_path)
    path = os.path.join(baked.directory, name)
    with open(path, "rb") as f:
        content = f.read()
    with open(path, "wb") as f:
        f.write(content[:-1])
    with pytest.raises(UserError, match=f"{name} has {len(content) - 1} bytes instead of {len(content)}"):
        bake(Texts(), BPE(280), tmp_path)
    with open(path, "wb") as f:
        f.write(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{name} is damaged"):
        baked.verify()
    os.remove(path)
    with pytest.raises(UserError, match=f"{name} is missing"):
        bake(Texts(), BPE(280), tmp_path)


def test_damaged_manifest_is_named(tmp_path):
    baked = bake(Texts(), ByteTokenizer(), tmp_path)
    path = os.path.join(baked.directory, "manifest.json")
    with open(path, "w") as f:
        f.write("{")
    with pytest.raises(UserError, match="manifest.json"):
        bake(Texts(), ByteTokenizer(), tmp_path)


def test_corpus_without_documents_for_a_split(tmp_path):
    with pytest.raises(UserError, match="The corpus is empty"):
        bake(Texts(0), ByteTokenizer(), tmp_path)
    with pytest.raises(UserError, match="None of the corpus' 2 distinct documents"):
        bake(Texts(2), ByteTokenizer(), tmp_path)
    assert os.listdir(tmp_path / "baked") == []  # nothing half-made stays
    alone = bake(Texts(2, validation=0, test=0), ByteTokenizer(), tmp_path)
    assert len(list(alone.documents("train"))) == 2
    with pytest.raises(UserError, match="no test split"):
        alone.split("test")


@pytest.mark.parametrize("after", [3, 100])  # documents: in the pass that trains the BPE, in the one that writes
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_an_interrupted_bake_leaves_nothing(after, kind, tmp_path, monkeypatch):
    left, documents = iter(range(after)), Texts.documents

    def interrupted(corpus):
        for document in documents(corpus):
            if next(left, None) is None:
                raise kind
            yield document

    monkeypatch.setattr(Texts, "documents", interrupted)
    with pytest.raises(kind):
        bake(Texts(), BPE(280), tmp_path)
    assert os.listdir(tmp_path / "baked") == []
    monkeypatch.setattr(Texts, "documents", documents)
    bake(Texts(), BPE(280), tmp_path).verify()


def _bake_at_once(barrier, cache, queue):
    barrier.wait()
    baked = bake(Texts(), ByteTokenizer(), cache)
    baked.verify()
    queue.put(json.dumps(baked.manifest))


def test_threads_at_once(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        all_baked = list(pool.map(lambda _: bake(Texts(), BPE(280), tmp_path), range(8)))
    assert len({json.dumps(baked.manifest) for baked in all_baked}) == 1
    assert os.listdir(tmp_path / "baked") == [os.path.basename(all_baked[0].directory)]


def test_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_bake_at_once, args=(barrier, str(tmp_path), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    manifests = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(manifests) == 1 and len(os.listdir(tmp_path / "baked")) == 1


def test_ids_take_the_smallest_type():
    sizes = [bake_module.token_dtype(n).itemsize for n in (256, 257, 65536, 65537)]
    assert sizes == [1, 2, 2, 4]
