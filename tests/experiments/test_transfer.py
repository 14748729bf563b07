"""The experiments that change a tokenizer: who learns from what."""

import dataclasses
import json
import os

import numpy as np
import pytest

from lmlab import experiment
from lmlab.cli import main
from lmlab.data.corpora import Files
from lmlab.objectives.alm import ALM


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_students_differ_in_their_objective_alone(scale):
    alm = experiment.load("alm")
    for kind in ("bytes", "bpe", "hnet"):
        taught, plain = (alm.resolve(f"{kind}_{name}", scale) for name in ("alm", "next_token"))
        assert isinstance(taught.objective, ALM) and not isinstance(plain.objective, ALM)
        assert dataclasses.replace(plain, objective=taught.objective) == taught
        assert plain.objective.teacher == taught.objective.teacher == alm.resolve("teacher", scale)
        assert taught.tokenizer.teacher == taught.objective.teacher.tokenizer


@pytest.mark.parametrize(
    "path", ["alm/bytes_alm", "omp_transplant/omp", "mwt/fvt", "tokenadapt/super_hybrid", "xrayemb/trained"]
)
def test_another_corpus_is_the_teachers_too(path):
    found, arm = experiment.find(path)
    run = found.resolve(arm, "smoke", corpus="text")
    others = [run.objective.teacher, *([run.objective.donor] if run.objective.donor else [])]
    others += [getattr(other.objective, "teacher", None) or other for other in others]
    assert all(other.corpus == run.corpus for other in others) and run.corpus.path.endswith("text")


@pytest.mark.parametrize("path", ["mwt/few", "tokenadapt/super_tokens"])
def test_tokenizers_are_measured_on_another_corpus_and_drawn_with_another_seed(path, tmp_path, capsys):
    (tmp_path / "text").mkdir()
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(4, 9)))) for _ in range(70)]
    for i in range(60):
        (tmp_path / "text" / f"{i:02d}.txt").write_text(" ".join(words[int(k)] for k in 70 * rng.random(600) ** 3))
    found, arm = experiment.find(path)
    text, here = str(tmp_path / "text"), tmp_path / "run"
    main(["train", path, "--scale", "smoke", "--corpus", text, "--dir", str(here)])
    kept = json.loads((here / "result.json").read_text())["metrics"]["bytes_per_token"]
    studies = [found.resolve(arm, "smoke", seed=seed, corpus=text) for seed in (0, 1)]
    assert all(study.corpus == Files(text) for study in studies)
    one, other = (study.measure()["bytes_per_token"] for study in studies)
    assert kept == one and 1 < one < 9
    assert (one != other) == (arm == "super_tokens")  # where nothing is drawn, nothing varies
    for name in sorted(os.listdir(text))[1:]:
        os.remove(os.path.join(text, name))
    with pytest.raises(SystemExit) as error:
        main(["train", path, "--scale", "smoke", "--corpus", text, "--dir", str(tmp_path / "none")])
    assert error.value.code == 2 and not (tmp_path / "none").exists()
    assert "documents falls into its test split" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_ways_to_make_rows_differ_in_nothing_else(scale):
    mwt, tokenadapt = experiment.load("mwt"), experiment.load("tokenadapt")
    pairs = [(mwt, "fvt", "random"), (mwt, "fvt_untrained", "random_untrained")]
    kinds = [(kind, name) for kind in ("bpe", "super") for name in ("local", "global")]
    pairs += [(tokenadapt, f"{kind}_hybrid", f"{kind}_{name}") for kind, name in kinds]
    for found, *arms in pairs:
        one, other = (found.resolve(arm, scale) for arm in arms)
        assert one.objective.method != other.objective.method
        assert dataclasses.replace(one, objective=other.objective) == other
        assert one.objective.teacher == other.objective.teacher
    assert mwt.resolve("fvt", scale).steps == mwt.resolve("continued", scale).steps
    xray = experiment.load("xrayemb")
    assert xray.resolve("trained", scale).steps == xray.resolve("continued", scale).steps
    for found, host, arms in ((xray, "host", ("trained", "half")), (mwt, "bpe", ("fvt", "random"))):
        per_byte = lambda arm: sum(found.resolve(arm, scale).flops_per_byte().values())  # noqa: E731, B023
        for arm in arms:
            said = f"{round(per_byte(arm) / per_byte(host), 2)} times the"
            assert said in found.arm(arm).notes[scale]
    runs = (tokenadapt.resolve(arm, scale) for arm in ("base", "bpe_mean"))
    rows = [run.length * run.tokenizer.bytes_per_token for run in runs]
    assert rows[0] == pytest.approx(rows[1], rel=0.01)
    looked, host = xray.resolve("trained", scale).objective.teacher, xray.resolve("host", scale)
    assert looked.objective.teacher == xray.resolve("text_only", scale).objective.teacher == host
    assert looked.optimizer.weight_decay == 0
