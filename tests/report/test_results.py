import json
import math

import pytest

from lmlab.errors import UserError
from lmlab.report.quantities import duration, fixed, si
from lmlab.report.results import curve, load_results, summarise
from tests.report.fakes import load_all, make_run


def test_only_finished_runs_are_read_by_arm_and_seed(tmp_path):
    make_run(tmp_path, "spacebyte", seed=1, steps=16)
    make_run(tmp_path, "spacebyte", seed=0, steps=16)
    make_run(tmp_path, "hnet_1stage", steps=16)
    make_run(tmp_path, "mambabyte", steps=16, finished=False)
    assert [(run.arm, run.seed) for run in load_all(tmp_path)] == [
        ("hnet_1stage", 0), ("spacebyte", 0), ("spacebyte", 1)]
    assert load_all(tmp_path / "nowhere") == []


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "result.json").write_text('{"arm": "x"}')
    with pytest.raises(UserError, match="result.json"):
        load_results([tmp_path])


def test_summary_is_the_mean_and_the_sample_standard_deviation(tmp_path):
    for seed, bpb in enumerate((2.0, 2.1, 2.3)):
        make_run(tmp_path, "spacebyte", seed=seed, steps=16, metrics={"bpb": bpb})
    make_run(tmp_path, "bpe", steps=16, metrics={"bpb": 2.5, "drop": None})
    summaries = summarise(load_all(tmp_path), ["bpb", "drop", "parameters"])
    several = summaries["spacebyte"]["bpb"]
    mean = 6.4 / 3
    assert several.n == 3 and several.mean == pytest.approx(mean)
    assert several.spread == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in (2.0, 2.1, 2.3)) / 2))
    assert summaries["bpe"]["bpb"].spread is None and summaries["bpe"]["bpb"].n == 1
    assert "drop" not in summaries["spacebyte"] and "drop" not in summaries["bpe"]
    assert summaries["bpe"]["parameters"].mean == 6_200_000


def test_a_curve_survives_a_torn_line_and_counts_a_repeated_step_once(tmp_path):
    path = make_run(tmp_path, "bpe", steps=16) / "metrics.jsonl"
    again = {"kind": "train", "step": 3, "bytes": 5, "flops": 7.0, "bpb": 1.25}
    no_bpb = {"kind": "train", "step": 17, "bytes": 9, "flops": 9.0, "bpb": math.nan}
    path.write_text(path.read_text() + json.dumps(again) + "\n" + json.dumps(no_bpb) + '\n{"kind": "tra')
    [result] = load_all(tmp_path)
    by_flops = curve(result, "flops").train
    assert by_flops.step == list(range(1, 17))
    assert (by_flops.x[2], by_flops.y[2]) == (7.0, 1.25)
    assert curve(result).evaluation.step == list(range(2, 17, 2))
    assert curve(result).evaluation.x[0] == 2 * 8192


@pytest.mark.parametrize("value, text", [(81920, "81.9 kB"), (999_999, "1 MB"), (0, "0 B"), (5, "5 B"),
                                         (0.25, "0.25 B"), (1.5e12, "1.5 TB"), (1e5, "100 kB"),
                                         (math.inf, "inf B")])
def test_si(value, text):
    assert si(value, "B") == text


def test_durations_and_fixed_digits():
    written = [duration(seconds) for seconds in (3.14, 59.97, 61, 3725)]
    assert written == ["3.1 s", "1 min 00 s", "1 min 01 s", "1 h 02 min"]
    assert [fixed(1234.567, 1), fixed(None, 2)] == ["1,234.6", ""]
