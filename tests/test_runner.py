"""From two tiny arms to a table: trained, evaluated, looked at, saved, read back, and provenance kept."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from lmlab import runner
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import BitsPerByte, Robustness
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.report.results import load_results
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.training import directory
from lmlab.training.optimizers import AdamW
from tests.training import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(experiment, {arm: run}, {arm: directory}, results)."""
    path = tmp_path_factory.mktemp("table")
    old = os.environ.get("LMLAB_CACHE")
    os.environ["LMLAB_CACHE"] = str(path / "cache")
    evaluators = (BitsPerByte("test"), Robustness("test", 3000))
    hierarchy = tiny.run(path, evaluators=evaluators)
    subword = dataclasses.replace(
        hierarchy,
        model=LanguageModel(300, transformer(1, 32, 64, n_heads=2)),
        tokenizer=BPE(300, 2.0),
        optimizer=AdamW(1e-3),
        precision="bfloat16",
    )
    runs = {"hnet": hierarchy, "bpe": subword}
    places = {name: os.fspath(path / name / "seed0") for name in runs}
    for name, run in runs.items():
        runner.run_arm(run, places[name], name)
    experiment = Experiment(
        paper=Paper("A title", 2025, "arXiv 0000.00000", "A claim."),
        scales=("smoke",),
        arms=tuple(Arm(name, name.upper(), lambda scale, run=run: run) for name, run in runs.items()),
        tables=(Table("t", "T", tuple(runs), (Column("bpb", "Test", "bits per byte", "lower", 3),)),),
        anchor="bpe",
        name="toy",
    )
    yield experiment, runs, places, load_results(places.values())
    os.environ.pop("LMLAB_CACHE") if old is None else os.environ.update(LMLAB_CACHE=old)


def test_metrics_of_a_hierarchy(finished):
    _, runs, _, results = finished
    metrics = results[1].metrics
    assert results[1].arm == "hnet" and 0 < metrics["bpb"] < 9
    assert metrics["bytes_per_token"] == 1 and metrics["bytes_per_chunk"] == metrics["stage0/bytes_per_chunk"]
    assert sum(metrics["stage0/chunk_lengths"]) == pytest.approx(1, abs=1e-3)
    assert 0 <= metrics["stage0/at_words"] <= 1 and 0 <= metrics["stage0/words_found"] <= 1
    assert metrics["cost"] == pytest.approx(metrics["perturbed"] - metrics["clean"])
    expected = sum(runs["hnet"].model.flops(32, (metrics["bytes_per_chunk"],)).values()) / 1e6
    assert metrics["mflops_per_byte"] == pytest.approx(expected)


def test_metrics_of_subwords_in_bfloat16(finished):
    _, runs, _, results = finished
    metrics = results[0].metrics
    assert metrics["bytes_per_token"] == metrics["bytes_per_chunk"] > 1
    flops = sum(runs["bpe"].model.flops(32).values())
    assert metrics["mflops_per_byte"] == pytest.approx(flops / metrics["bytes_per_token"] / 1e6)


def test_a_finished_run_is_not_run_again(finished):
    _, runs, places, results = finished
    again = runner.run_arm(runs["hnet"], places["hnet"], "hnet", on_metrics=lambda *_: pytest.fail("it trained"))
    assert again["metrics"] == results[1].metrics


def test_logged_gradient_norms_add_up(finished):
    train, _ = runner.read_metrics(finished[2]["hnet"])
    assert {"grad_norm/embedding", "grad_norm/stage0/chunker", "grad_norm/stage1/main"} <= set(train[0])
    parts = sum(v**2 for k, v in train[0].items() if k.startswith("grad_norm/"))
    assert parts**0.5 == pytest.approx(train[0]["grad_norm"], rel=0.2)  # a root of means beside a mean of roots


def test_a_table_survives_its_file(finished, tmp_path):
    experiment, _, _, results = finished
    provenance = {"command": "x", **runner.gather_provenance(results)}
    path = os.fspath(tmp_path / "table.json")
    runner.save_table(path, experiment, "smoke", results, provenance)
    read, kept = runner.load_table(path)
    assert kept["splits"]["test"]["documents"] > 0 and kept["commit"] == directory.commit()
    views = [runner.table_view(experiment, experiment.tables[0], r) for r in (results, read)]
    assert views[0].rows == views[1].rows and all(row.measured for row in views[0].rows)


def test_only_the_named_directories_count(finished):
    places = finished[2]
    assert [r.arm for r in load_results([places["hnet"]])] == ["hnet"]
    assert runner.run_directory("runs", "a", "small", "b", 0) != runner.run_directory("runs", "a", "small", "b", 0, ["x=1"])


def test_sampling_needs_the_run_directory_only(finished, monkeypatch, tmp_path):
    _, _, places, _ = finished
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "empty"))
    for place in places.values():
        run, model, params = runner.load_run(place)
        text = runner.sample_text(model, params, runner.tokenizer_of(run, model, place), b"the a", 12)
        assert text.startswith("the a")
    assert not (tmp_path / "empty").exists()


def test_a_split_that_is_evaluated_must_exist(finished, tmp_path):
    run = finished[1]["hnet"]
    run = dataclasses.replace(run, corpus=dataclasses.replace(run.corpus, test=0.0))
    with pytest.raises(UserError, match="no test split"):
        runner.run_arm(run, os.fspath(tmp_path / "run"), "hnet")
    assert not (tmp_path / "run").exists()


def test_two_evaluators_of_a_kind_are_refused(finished):
    with pytest.raises(UserError, match="one evaluator of each kind"):
        dataclasses.replace(finished[1]["hnet"], evaluators=(BitsPerByte("test"), BitsPerByte("validation")))


@pytest.mark.parametrize("cut", range(1, 5))
def test_streamed_characters_are_whole(cut, monkeypatch):
    """A four-byte character that the model gives in two pieces is printed once, whole; half of one at the end is marked."""
    from lmlab.decoding import generate
    from lmlab.text.bytes import ByteTokenizer

    given = "é🙂!".encode() + "🙂".encode()[:2]
    pieces = [np.frombuffer(part, np.uint8) for part in (given[: 1 + cut], given[1 + cut :])]
    monkeypatch.setattr(generate, "stream", lambda *args: iter(pieces))
    out = list(runner.stream_text(None, None, ByteTokenizer(), b"x"))
    assert "".join(out) == "xé🙂!\ufffd" and all("\ufffd" not in piece for piece in out[:-1])


def test_a_prompt_may_break_off_a_word(monkeypatch):
    """The symbol that would end the prompt's last word is left to the model; what it writes comes without symbols."""
    from lmlab.decoding import generate
    from lmlab.runner import sample_text
    from lmlab.text.words import Words

    seen = {}

    def stream(model, params, ids, new_tokens, eos, *rest):
        seen.update(ids=ids.tolist(), new_tokens=new_tokens)
        yield np.array([ord("n"), 256, ord("x")])

    monkeypatch.setattr(generate, "stream", stream)
    tokenizer = Words(bytes_per_word=4.0)
    assert sample_text(None, None, tokenizer, b"a retur", new=8) == "a returnx"
    assert seen == {"ids": [254, *b"a ", 256, *b"retur"], "new_tokens": 10}


def test_what_is_no_text_is_left_out_of_samples():
    """A model of gaps writes marks too, ids above the tokenizer's: nearly all of these."""
    model = LanguageModel(10_000, transformer(1, 16, 32, 2))
    text = runner.sample_text(model, init(model, jax.random.key(0)), ByteTokenizer(), b"a b", new=40, top_p=1.0)
    assert text.startswith("a b") and len(text) < 15
