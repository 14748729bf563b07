"""A study in the place of a run: measured once, kept, in the table and on the command line."""

import dataclasses
import json
import os

import pytest

from lmlab import experiment, runner
from lmlab.data.categories import Categories
from lmlab.errors import UserError
from lmlab.experiment import Arm, Column, Experiment, Paper, Study, Table
from lmlab.report.results import load_results
from tests.command import run


@dataclasses.dataclass(frozen=True)
class Sizes(Study):
    """Bytes of all texts."""

    def measure(self):
        return {"bytes": float(sum(len(d) for t in self.corpus.texts().values() for d in t)), "seed": float(self.seed)}


def texts(folder, **contents):
    for name, content in contents.items():
        (folder / f"set.{name}.txt").write_text(content)
    (folder / "LICENCE-x.txt").write_text("not a text")
    return Categories(str(folder))


def test_a_study_runs_once_and_makes_a_table(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    study = Sizes(texts(tmp_path / "in", one="a\nbc\n", two="défgh"), 3)
    place = os.fspath(tmp_path / "run")
    result = runner.run_arm(study, place, "sizes")
    assert result["metrics"] == {"bytes": 11.0, "seed": 3.0} and result["steps"] == 0
    monkeypatch.setattr(Sizes, "measure", lambda self: pytest.fail("it measured"))
    assert runner.run_arm(study, place, "sizes")["metrics"] == result["metrics"]
    with pytest.raises(UserError, match="holds another run"):
        runner.run_arm(study.seeded(4), place, "sizes")
    column = Column("bytes", "Text", "bytes")
    found = Experiment(
        Paper("T", 2026, "ours", "A claim."), ("smoke",), (Arm("sizes", "Sizes", lambda scale: study),),
        (Table("t", "T", ("sizes",), (column,)),), "sizes", "toy",
    )
    results = load_results([place])
    provenance = runner.gather_provenance(results)
    assert provenance["splits"] == {} and provenance["commit"]
    assert runner.table_view(found, found.tables[0], results).rows[0].measured["bytes"].mean == 11
    runner.save_table(os.fspath(tmp_path / "table.json"), found, "smoke", results, provenance)
    assert runner.load_table(os.fspath(tmp_path / "table.json"))[0][0].metrics == result["metrics"]


@pytest.mark.parametrize("path, overrides, files, sentence", [
    ("qtok/bpe", [], {"aa": b"x\n" * 4, "bb": b"y\n" * 4}, "only"),
    ("qtok/bpe", [], {"aa": b"x", "bb": b""}, "0 lines that are there in every language"),
    ("token_premiums/monolingual", [], {"aa": b"x\n", "bb": b"y\n"}, "1 lines that are there in every language"),
    ("mixture_inference/two", ["trials=0"], {"aa": b"x y\n" * 9, "bb": b"y z\n" * 9}, "trials of at least 1, not 0"),
    ("mixture_inference/two", ["merges=0"], {"aa": b"x y\n" * 9, "bb": b"y z\n" * 9}, "merges of at least 1, not 0"),
])  # fmt: skip
def test_text_that_does_not_do_leaves_nothing_behind(path, overrides, files, sentence, tmp_path):
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / f"{name}.txt").write_bytes(content)
    found, arm = experiment.find(path)
    study = found.resolve(arm, "smoke", overrides, None, str(tmp_path / "in"))
    if hasattr(study.corpus, "languages"):
        study = dataclasses.replace(study, corpus=dataclasses.replace(study.corpus, languages=()))
    with pytest.raises(UserError, match=sentence):
        runner.run_arm(study, str(tmp_path / "run"), arm)
    assert not (tmp_path / "run").exists()


def test_bad_text_leaves_nothing_behind(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="holds 1 texts; there must be 2 or more"):
        runner.run_arm(Sizes(texts(tmp_path / "in", one="a")), os.fspath(tmp_path / "run"), "sizes")
    with pytest.raises(UserError, match="no folder of texts at"):
        runner.run_arm(Sizes(Categories(os.fspath(tmp_path / "no"))), os.fspath(tmp_path / "run"), "sizes")
    assert not (tmp_path / "run").exists()


def test_commands_know_studies(capsys, tmp_path, monkeypatch):
    from experiments import mixture_inference

    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "show", "mixture_inference/two")
    assert code == 0 and "MixtureInference" in out and "trials: 2" in out
    code, out, _ = run(capsys, "show", "mixture_inference")
    assert code == 0 and "two: 2 categories; a study" in out
    for argv, sentence in [
        (["compile", "mixture_inference/two", "--scale", "smoke"], "nothing to compile"),
        (["sweep", "mixture_inference", "merges", "10,20"], "nothing to sweep"),
        (["train", "mixture_inference/two", "--profile", "1:2"], "takes neither --profile"),
        (["data", "mixture_inference/two"], "bakes no corpus"),
        (["train", "mixture_inference/two", "--set", "merge=2"], "did you mean merges?"),
        (["train", "mixture_inference/of5", "--scale", "small"], "holds 2 texts; there must be 5 or more"),
        (["train", "mixture_inference/two", "--corpus", "nowhere"], "no folder of texts"),
    ]:
        code, _, err = run(capsys, *argv)
        assert code == 2 and sentence in err and err.count("\n") == 1, err
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(mixture_inference.MixtureInference, "measure", lambda self: {"log_mse": -3.0})
    code, out, _ = run(capsys, "table", "mixture_inference")
    assert code == 0 and "-3.00" in out
    assert json.loads((tmp_path / "runs/mixture_inference/smoke/table.json").read_text())["provenance"]["splits"] == {}
    assert (tmp_path / "runs/mixture_inference/smoke/report.html").exists()
