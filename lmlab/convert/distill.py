"""`lmlab transfer --distill`: a model with another tokenizer learns from the one that it was, by ALM.

In OUT-teacher lies the model as it was, in OUT-before with its new tokenizer, untrained; OUT is a run directory.
"""

import json
import os
import shutil

from lmlab import config
from lmlab.comparison import quarters
from lmlab.convert.transfer import file_of, read_model, transfer
from lmlab.data.corpora import Files, StandardLibrary, documents_of, train_split
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.objectives.alm import ALM
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.pairs import Beside
from lmlab.text.tokenizer_file import TokenizerFile
from lmlab.training import checkpoints
from lmlab.training.directory import TOKENIZER
from lmlab.training.optimizers import WSD, AdamW
from lmlab.training.run import Run

HOW = "transfer.json"  # beside the untrained model: what it was made by
SAMPLE = 1_000_000  # bytes of text that tell how long tokens are
ROOM = 1.25  # of the teacher's positions over those that a row takes on average


def corpus_at(path):
    """The files at `path`; None: the standard library's."""
    return StandardLibrary(validation=0.005, test=0.03) if path is None else Files(os.path.abspath(path))


def distillation(directory, out, corpus, overrides=(), **how):
    """The Run that trains, in `out`, the model in `directory` with another tokenizer to be as it was with its own.

    `corpus`: what both read. `overrides`: "field=value" of the Run. `how`: see `transfer`. What an earlier call has
    written for this one is taken as it is. UserError as from `transfer`, and where `out` was begun otherwise; nothing
    is left then that was not there.
    """
    out = os.path.normpath(out)
    before, teacher = f"{out}-before", f"{out}-teacher"
    record = json.dumps(_absolute({"directory": directory, "corpus": corpus} | how), default=repr, indent=1)
    made = [path for path in (before, teacher) if not os.path.lexists(path)]
    try:
        if before in made:
            checkpoints.absent(out)
            checkpoints.absent(teacher)
            _check_splits(corpus)
            transfer(directory, before, **how, record={HOW: record})
        elif _read(os.path.join(before, HOW)) != record:
            raise UserError(f"{before} holds a model that was made otherwise: choose another name for OUT.")
        if teacher in made:
            model, params, tokenizer = read_model(directory, how.get("source"))
            checkpoints.save_model(teacher, model, params, file_of(tokenizer))
        return config.override(_run(before, teacher, corpus), overrides)
    except UserError:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _check_splits(corpus):
    """UserError unless there is text to train on, to look at on the way, and to test by."""
    missing = {"train", "validation", "test"} - {split for split, data, _ in documents_of(corpus) if data}
    if missing:
        which = " and no ".join(sorted(missing))
        raise UserError(f"The text to distill on has no {which} split: it needs more documents, such as files of a folder.")


def _run(before, teacher, corpus):
    """1,000 steps of 16 rows of 512 tokens: a fifth of the steps of the authors' example, of a quarter of its rows."""
    recipe = dict(
        corpus=corpus,
        optimizer=AdamW(1e-4, WSD(0.1, 0.2)),
        batch_size=16,
        length=512,
        evaluators=(BitsPerByte("test"),),
        **quarters(1000),
    )
    taught, begun = (
        Run(model=checkpoints.load_model(where)[0], tokenizer=_tokenizer(where, corpus), **recipe)
        for where in (teacher, before)
    )
    positions = ROOM * begun.tokenizer.bytes_per_token / taught.tokenizer.bytes_per_token
    pair = Beside(begun.tokenizer, taught.tokenizer, round(positions, 2))
    objective = ALM(teacher=taught, method="")  # the rows are there
    return Run(model=begun.model, tokenizer=pair, objective=objective, after=begun, **recipe)


def _tokenizer(directory, corpus):
    """That of a model, with the length that its tokens have in the corpus."""
    path = os.path.abspath(os.path.join(directory, TOKENIZER))
    if not os.path.exists(path):
        return ByteTokenizer()
    texts, size = [], 0
    for data in train_split(corpus):
        texts.append(data[: SAMPLE - size])
        size += len(texts[-1])
        if size == SAMPLE:
            break
    tokens = sum(len(ids) for ids in TokenizerFile(path).read().encode_batch(texts))
    return TokenizerFile(path, round(size / max(tokens, 1), 2))


def _absolute(values):
    """Paths among them as seen from anywhere."""
    is_path = lambda value: isinstance(value, str) and os.path.exists(value)  # noqa: E731
    return {name: os.path.abspath(value) if is_path(value) else value for name, value in values.items()}


def _read(path):
    """The text of a file; None where there is none."""
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except OSError:
        return None
