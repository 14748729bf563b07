"""A sweep trains every arm with every value, judges on the validation split, and changes nothing else."""

import json

import pytest

from lmlab import config, experiment
from lmlab.cli import main
from lmlab.data.corpora import StandardLibrary
from lmlab.experiment import Arm, Experiment, Paper, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.report.sweep import view_of
from lmlab.text.bytes import ByteTokenizer
from lmlab.training.optimizers import AdamW
from lmlab.training.run import Run


def tiny(width):
    def build(scale):
        model = LanguageModel(256, transformer(1, width, 32, n_heads=2))
        return Run(model, StandardLibrary(300_000, 0.2, 0.2), ByteTokenizer(), AdamW(1e-2), 4, 2, 32, log_every=2)

    return build


def test_every_arm_with_every_value(tmp_path, monkeypatch, capsys):
    arms = (Arm("narrow", "Narrow", tiny(8)), Arm("wide", "Wide", tiny(16)), Arm("hidden", "Hidden", tiny(8)))
    paper = Experiment(Paper("Title", 2026, "", ""), ("smoke",), arms, (Table("t", "T", ("narrow", "wide"), ()),), "wide", "p")
    monkeypatch.setattr(experiment, "load", lambda name: paper)
    monkeypatch.chdir(tmp_path)
    main(["sweep", "p", "optimizer.learning_rate", "1e-9,1e-2,1e3", "--dir", "./."])
    (path,) = (tmp_path / "p" / "smoke" / "sweeps").rglob("*.json")
    assert "optimizer.learning_rate" in str(path)
    swept = json.loads(path.read_text())
    assert swept["values"] == ["1e-9", "1e-2", "1e3"] and swept["field"] == "optimizer.learning_rate"
    assert set(swept["validation_bpb"]) == {"narrow", "wide"}  # arms of no table are not swept
    for nothing, good, far in swept["validation_bpb"].values():
        assert nothing == pytest.approx(8, abs=0.1) and good < nothing and (far is None or far > nothing)  # None: diverged
    runs = [config.from_json(config.load_json(path)) for path in tmp_path.glob("p/smoke/*/*/run.json")]
    rates = sorted(run.optimizer.learning_rate for run in runs)
    assert rates == [1e-9, 1e-9, 1e-2, 1e-2, 1e3, 1e3] and not any(run.evaluators for run in runs)
    assert "Best" in capsys.readouterr().out

    view = view_of(swept, {"narrow": "Narrow", "wide": "Wide"})
    assert [row.measured["best"].mean for row in view.rows] == [1e-2, 1e-2] and not view.note
    none = view_of({**swept, "validation_bpb": {"wide": [None, None, None]}}, {"wide": "Wide"})
    assert "best" not in none.rows[0].measured
    lost = view_of({**swept, "validation_bpb": {"wide": [None, 2.0, 1.5]}}, {"wide": "Wide"})
    assert lost.rows[0].measured["best"].mean == 1e3 and lost.rows[0].measured["1e-9"].mean != lost.rows[0].measured["1e-9"].mean
    edge = view_of({**swept, "validation_bpb": {"wide": [1.0, 2.0, 3.0]}}, {"narrow": "Narrow", "wide": "Wide"})
    assert [row.label for row in edge.rows] == ["Wide"] and "tried for Wide" in edge.note


@pytest.mark.parametrize("values", ["1e-3", "1e-3,1e-3", "1e-3,much", ""])
def test_values_are_two_different_numbers_or_more(values, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "hnet", "optimizer.learning_rate", values])
    assert stop.value.code == 2 and "two or more different numbers" in capsys.readouterr().err
