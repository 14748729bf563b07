import json

import flax.linen as nn
import pytest

from lmlab import config
from lmlab.data.corpora import Files, StandardLibrary
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import BitsPerByte, Robustness
from lmlab.models.build import hierarchy, transformer
from lmlab.models.language_model import LanguageModel
from lmlab.text import BPE, ByteTokenizer
from lmlab.training.optimizers import AdamW
from lmlab.training.run import Run


def run(model=None, **changes):
    backbone = hierarchy(["m1", ["T1"], "m1"], (16, 32), (0, 64), n_heads=2, d_state=8)
    settings = dict(corpus=StandardLibrary(100_000), tokenizer=ByteTokenizer(), optimizer=AdamW(1e-3))
    settings |= dict(steps=20, batch_size=2, length=32)
    settings |= dict(evaluators=(BitsPerByte("validation"), Robustness("test")))
    return Run(model=model or LanguageModel(256, backbone), **settings | changes)


RUNS = {
    "hierarchy": run(),
    "bpe": run(
        LanguageModel(300, transformer(2, 16, 32, n_heads=2)), tokenizer=BPE(300), corpus=Files("a b", 0.5, 0)
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_json_gives_back_the_whole_run(name):
    text = json.dumps(config.to_json(RUNS[name]))
    again = config.from_json(json.loads(text))
    assert again == RUNS[name] and hash(again) == hash(RUNS[name])
    assert config.to_text(again) == config.to_text(RUNS[name])
    assert json.dumps(config.to_json(again)) == text


def test_text_has_every_field_once_and_nothing_of_flax():
    text = config.to_text(RUNS["hierarchy"])
    assert text.count("\n") == len(config.paths(RUNS["hierarchy"]))  # the first line is the class
    assert "parent" not in text and "name:" not in text
    assert "  model: LanguageModel\n    vocab_size: 256\n    backbone: Hierarchy\n" in text


def test_what_a_run_cannot_hold_is_refused():
    for value in ([1], {"a": 1}, print):
        with pytest.raises(TypeError, match="cannot be part of a run"):
            config.to_json(run(precision=value))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"class": "os:system"}, "os:system, which is not lmlab's"),
        ({"class": "lmlab_evil:Run"}, "not lmlab's"),
        ({"class": None}, "not lmlab's"),
        ({"class": "lmlab.training.run:Gone"}, "another version of lmlab"),
        ({"class": "lmlab.gone:Run"}, "another version of lmlab"),
        ({"class": "lmlab.text:train_bpe"}, "train_bpe is no dataclass"),
        ({"class": "lmlab.data.corpora:os"}, "os is no dataclass"),
        ({"new_field": 1}, "another version of lmlab.*new_field"),
    ],
)
def test_refuses_foreign_classes_and_other_versions(changes, message):
    with pytest.raises(UserError, match=message):
        config.from_json(config.to_json(RUNS["hierarchy"]) | changes)


@pytest.mark.parametrize(
    "path, text, value",
    [
        ("steps", "30", 30),
        ("model.backbone.inner.d_model", "64", 64),
        ("model.tied", "True", True),
        ("model.backbone.encoder.window", "None", None),  # int | None
        ("model.backbone.inner.window", "7", 7),
        ("model.backbone.capacity", "1", 1.0),  # float | None
        ("corpus.validation", "0.25", 0.25),
        ("corpus.validation", "0", 0.0),
        ("optimizer.learning_rate", "3e-4", 3e-4),
        ("optimizer.schedule.warmup", "0.5", 0.5),
        ("optimizer.stage_multipliers", "(2, 1.5)", (2.0, 1.5)),
        ("evaluators.1.split", "train", "train"),
        ("evaluators", "()", ()),
        ("precision", "bfloat16", "bfloat16"),
        ("precision", "'a=b'", "a=b"),
    ],
)
def test_override_sets_one_field_and_no_other(path, text, value):
    before = RUNS["hierarchy"]
    after = config.override(before, [f"{path}={text}"])
    got = after
    for name in path.split("."):
        got = got[int(name)] if name.isdigit() else getattr(got, name)
    assert got == value and type(got) is type(value)
    assert type(after.model) is LanguageModel and isinstance(after.model.backbone, nn.Module)
    if path != "evaluators":  # its parts vanish with it
        lines = [config.to_text(r).split("\n")[1:] for r in (before, after)]
        old, new = (dict(zip(config.paths(before), of, strict=True)) for of in lines)
        assert {p for p in old if old[p] != new[p]} == {path}


def test_a_path_of_digits_is_still_a_name():
    assert config.override(RUNS["bpe"], ["corpus.path=2024"]).corpus.path == "2024"


def test_fields_that_must_fit_one_another_change_together():
    assert RUNS["hierarchy"].checkpoint_every % 7 and 21 % RUNS["hierarchy"].log_every
    after = config.override(RUNS["hierarchy"], ["checkpoint_every=21", "evaluate_every=21", "log_every=7", "steps=1", "steps=2"])
    assert (after.checkpoint_every, after.log_every, after.steps) == (21, 7, 2)
    with pytest.raises(UserError, match="must be a multiple"):
        config.override(RUNS["hierarchy"], ["checkpoint_every=21"])
    assert config.override(RUNS["hierarchy"], []) == RUNS["hierarchy"]


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("stepz=3", "no field stepz; did you mean steps"),
        ("learning_rate=3", "did you mean optimizer.learning_rate"),
        ("model.backbone.iner.d_model=3", "did you mean model.backbone"),
        ("evaluators.2.split=test", "did you mean evaluators"),
        ("evaluators.0=1", "no field evaluators.0"),
        ("=3", "no field "),
        ("model.name=x", "no field model.name"),
        ("steps", "takes FIELD=VALUE, not 'steps'"),
        ("steps=many", "steps is int, like 20"),
        ("steps=1.5", "steps is int"),
        ("steps=None", "steps is int"),
        ("steps=True", "steps is int"),
        ("steps=", "steps is int"),
        ("model.tied=1", "model.tied is bool"),
        ("optimizer.learning_rate=fast", "learning_rate is float, like 0.001"),
        ("model.backbone.inner.window=wide", "window is int | None".replace("|", r"\|")),
        ("optimizer.stage_multipliers=(1, 'a')", "stage_multipliers is tuple"),
        ("optimizer.stage_multipliers=1", "stage_multipliers is tuple"),
        ("evaluators=(1, 2)", "evaluators has parts of its own"),
        ("model=3", "model has parts of its own"),
        ("steps=0", "at least 1, not 0"),
    ],
)
def test_mistakes_are_one_sentence(assignment, message):
    with pytest.raises(UserError, match=message):
        config.override(RUNS["hierarchy"], [assignment])


def test_files_that_are_no_json(tmp_path):
    (tmp_path / "run.json").write_bytes(b'{"class": \xff')
    with pytest.raises(UserError, match="run.json is not valid JSON"):
        config.load_json(tmp_path / "run.json")
    with pytest.raises(UserError, match="Cannot read .*missing.json: No such file"):
        config.load_json(tmp_path / "missing.json")
