"""A host, what its vocabulary teaches, and text: each training begins with what the one before left."""

import dataclasses

import jax
import numpy as np
import pytest

from lmlab.commands.look import _reads_left_to_right
from lmlab.data.spelled_words import SpelledWords
from lmlab.errors import UserError
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.xray import XRay
from lmlab.objectives.look_inside import LookInside, Spelling
from lmlab.objectives.transferred import Transferred
from lmlab.runner import load_run, read_metrics
from lmlab.text.bpe import BPE
from lmlab.training.loop import train
from lmlab.training.optimizers import AdamW
from tests.training import tiny

BODY = transformer(1, 16, 32, n_heads=2)
SIZES = dict(tied=True, longest=8, d_character=8, d_hidden=8)


def run(tmp_path, model, **changes):
    short = dict(steps=2, length=24, log_every=2, evaluate_every=2, checkpoint_every=2, evaluators=())
    return dataclasses.replace(tiny.plain(tmp_path), model=model, tokenizer=BPE(280), **short, **changes)


def test_a_host_is_kept_by_the_vocabulary_and_taken_over_by_the_text(tmp_path):
    host = run(tmp_path, LanguageModel(280, BODY, tied=True))
    xray, corruption = XRay(281, BODY, **SIZES), SpelledWords(8, 0.5)
    still = AdamW(1e-2, weight_decay=0.0)
    looks = run(tmp_path, xray, corruption=corruption, objective=LookInside(teacher=host), optimizer=still)
    reads = run(tmp_path, xray, corruption=corruption, objective=Spelling(teacher=looks), optimizer=AdamW(1e-12))
    params, data = train(reads, str(tmp_path / "run"))
    looked, hosted = (load_run(str(tmp_path / name))[2] for name in ("run-teacher", "run-teacher-teacher"))
    own, before = looked["params"], hosted["params"]
    np.testing.assert_array_equal(own["embedding"][:280], before["embedding"])
    jax.tree.map(np.testing.assert_array_equal, own["backbone"], before["backbone"])
    fresh = init(xray, jax.random.key(0))["params"]
    assert np.abs(np.asarray(own["encoder"]["out"]) - np.asarray(fresh["encoder"]["out"])).max() > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params["params"], own)

    # One tokenizer for both: a model that goes on as it is.
    other = init(host.model, jax.random.key(3))
    more = Transferred(teacher=host).begin(host.model, other, hosted, data.baked.tokenizer)
    jax.tree.map(np.testing.assert_array_equal, more, jax.tree.map(np.asarray, hosted))

    with pytest.raises(UserError, match="a model of SpelledWords, which can neither"):
        _reads_left_to_right(reads, "run")
    decays, longer = dict(optimizer=AdamW(1e-2)), dict(corruption=SpelledWords(9))
    for fields, said in ((decays, "only without decay"), (longer, "up to 9 bytes")):
        with pytest.raises(UserError, match=said):
            dataclasses.replace(looks, **fields)
    line, _ = read_metrics(str(tmp_path / "run-teacher"))
    assert line[-1]["flops"] == 2 * 3 * looks.objective.at_once * 2 * xray.word_flops()  # the host is not run
    with pytest.raises(UserError, match="only where its backbone is"):
        other = XRay(281, transformer(2, 16, 32, n_heads=2), **SIZES)
        Spelling(teacher=host).begin(other, None, hosted, data.baked.tokenizer)
