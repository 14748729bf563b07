"""A run that trains in seconds."""

import dataclasses

from lmlab.data.corpora import Files
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.models.build import hierarchy, transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.optimizers import AdamW, hnet_multipliers
from lmlab.training.run import Run

WORDS = "the a of chunk byte model reads writes learns where a word starts ends é 世界".split()


TIMES = ("seconds", "steps_per_second", "bytes_per_second", "flops_per_second", "computed_flops_per_second", "utilisation")


def timeless(line):
    """A line of the metrics without what the clock says."""
    return {k: v for k, v in line.items() if k.partition("/")[0] not in TIMES}


def corpus(tmp_path, documents=60):
    """Files of made-up text."""
    folder = tmp_path / "text"
    folder.mkdir(exist_ok=True)
    for i in range(documents):
        words = [WORDS[(i * i + 7 * j + i * j) % len(WORDS)] for j in range(40 + i)]
        (folder / f"{i:03d}.txt").write_text(" ".join(words))
    return Files(str(folder), validation=0.2, test=0.2)


def run(tmp_path, **changes):
    """A one-stage H-Net over made-up text."""
    backbone = hierarchy(["m1", ["T1"], "m1"], (32, 64), (0, 64), n_heads=2, d_state=8, target=4.0, capacity=2.0)
    base = Run(
        model=LanguageModel(256, backbone),
        corpus=corpus(tmp_path),
        tokenizer=ByteTokenizer(),
        optimizer=AdamW(1e-3, stage_multipliers=hnet_multipliers((4.0,), (32, 64))),
        steps=8,
        batch_size=8,
        length=32,
        evaluators=(BitsPerByte("test"),),
        evaluate_every=4,
        checkpoint_every=4,
        log_every=2,
    )
    return dataclasses.replace(base, **changes)


def plain(tmp_path, **changes):
    """A small transformer over the same text, which compiles in a second."""
    model = LanguageModel(256, transformer(1, 32, 64, n_heads=2))
    return run(tmp_path, model=model, optimizer=AdamW(1e-3), **changes)
