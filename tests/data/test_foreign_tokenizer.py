"""A tokenizer of another corpus: it learns from that corpus' train split alone, and its name tells splits apart."""

import dataclasses

from lmlab.data.corpora import split_of
from lmlab.data.corpora import Files
from lmlab.data.foreign_tokenizer import TrainedOn
from lmlab.text.bpe import BPE


def corpus(folder):
    for i in range(20):
        (folder / f"{i}.txt").write_text(f"{'the same line over and over, ' * 30} and word{i}{i}")
    return Files(str(folder), validation=0.2, test=0.2)


def test_what_is_held_out_of_the_other_corpus_names_the_tokenizer(tmp_path):
    files = corpus(tmp_path)
    recipe = TrainedOn(BPE(300, 2.0), files)
    assert recipe.fingerprint == TrainedOn(BPE(300, 2.0), files).fingerprint
    for field in ("validation", "test"):
        other = dataclasses.replace(recipe, corpus=dataclasses.replace(files, **{field: 0.4}))
        assert other.fingerprint != recipe.fingerprint


def test_it_learns_from_the_train_split_alone(tmp_path):
    read = []

    class Recording:
        fingerprint = "recording"

        def train(self, documents):
            read.extend(documents)

    files = corpus(tmp_path)
    TrainedOn(Recording(), files).train([b"what it is used on"])
    splits = {d.data: split_of(d.data, files.validation, files.test) for d in files.documents()}
    assert set(splits.values()) == {"train", "validation", "test"}
    assert sorted(read) == sorted(text for text, split in splits.items() if split == "train")
