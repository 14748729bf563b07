"""Finished runs read back from disk, and their means and spreads over seeds."""

import collections
import dataclasses
import json
import math
import pathlib
import statistics

from lmlab.errors import UserError


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished run: `result.json`, and in `log` the rows of `metrics.jsonl`."""

    arm: str
    seed: int
    steps: int
    train_bytes: int
    train_flops: float
    seconds: float  # wall time
    parameters: int
    flops_per_byte: float  # of training
    metrics: dict[str, float]
    provenance: dict = dataclasses.field(default_factory=dict)  # commits, date, machine, splits
    sample: str = ""
    passages: tuple[dict, ...] = ()  # as in lmlab/report/passages.py
    log: tuple[dict, ...] = ()
    directory: pathlib.Path | None = None

    def metric(self, name):
        """An evaluated metric, or one of the run's own numbers (`parameters`, ..), or None."""
        return self.metrics.get(name, getattr(self, name, None))


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean over `n` seeds; `spread` is the sample standard deviation, None for a single seed."""

    mean: float
    spread: float | None = None
    n: int = 1


@dataclasses.dataclass(frozen=True)
class Points:
    """One line of a plot: training step, abscissa and ordinate, all of one length."""

    step: list[int]
    x: list[float]
    y: list[float]


@dataclasses.dataclass(frozen=True)
class Curve:
    """What a run logged while training, and what it measured on held-out text on the way."""

    train: Points
    evaluation: Points


def load_results(directories):
    """The finished runs of these run directories, by arm and seed; one without `result.json` has not finished."""
    paths = [pathlib.Path(directory, "result.json") for directory in directories]
    results = [_load(path) for path in paths if path.exists()]
    return sorted(results, key=lambda result: (result.arm, result.seed))


def _load(path):
    names = {field.name for field in dataclasses.fields(Result)}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = {name: value for name, value in record.items() if name in names}
        return Result(**known | {"log": _read_log(path.with_name("metrics.jsonl")), "directory": path.parent})
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the result of a run: {error}.") from error


def _read_log(path):
    """Rows in order. A resumed run repeats steps (the last row counts); a killed one tears its last."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row.get("kind"), row.get("split"), row.get("step")] = row
    return tuple(sorted(rows.values(), key=lambda row: row.get("step", 0)))


def summarise(results, metrics):
    """{arm: {metric: Summary}} over seeds; a metric that no seed of an arm has is absent."""
    arms = collections.defaultdict(list)
    for result in results:
        arms[result.arm].append(result)
    return {
        arm: {name: _summary(values) for name in metrics
              if (values := [value for run in runs if (value := run.metric(name)) is not None])}
        for arm, runs in arms.items()
    }


def _summary(values):
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), spread, len(values))


def curve(result, x="bytes", y="bpb"):
    """Learning curve of one run against training "bytes" or "flops"; rows lacking either are left out."""

    def points(kind, split):
        rows = [row for row in result.log
                if row.get("kind") == kind and row.get("split") == split
                and all(math.isfinite(row.get(name, math.nan)) for name in (x, y))]
        return Points([row["step"] for row in rows], [row[x] for row in rows], [row[y] for row in rows])

    return Curve(points("train", None), points("evaluation", "validation"))
