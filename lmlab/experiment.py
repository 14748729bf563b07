"""The nouns of an experiment file: Paper, Scale, Arm, Run, Study, Table, and how experiments are found by name."""

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Callable

from lmlab import config
from lmlab.errors import UserError
from lmlab.evaluation.study import Study
from lmlab.report.tables import Column
from lmlab.training.run import Run

__all__ = ["Arm", "Column", "Experiment", "Paper", "Run", "SCALES", "Scale", "Study", "Table", "find", "load", "names"]

Scale = str
SCALES: dict[Scale, str] = {
    "smoke": "every arm in seconds on a CPU",
    "small": "minutes per arm on two CPU cores",
    "mid": "minutes per arm on one accelerator",
    "paper": "the paper's own setup, for a TPU slice",
}


@dataclasses.dataclass(frozen=True)
class Paper:
    """What is reproduced."""

    title: str
    year: int
    url: str
    claim: str  # one sentence


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of a table: a name, how it is printed, scale -> Run (or Study), and what `lmlab show` should say of it,
    by scale.

    `scales`: those it exists at; None: all of its experiment's. `size`: its size class where that is not the anchor's;
    its FLOPs per byte are then not compared.
    """

    name: str
    label: str
    run: Callable[[Scale], Run | Study]
    notes: dict[Scale, str] = dataclasses.field(default_factory=dict)
    scales: tuple[Scale, ...] | None = None
    size: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Arms x metrics. `reported` holds the paper's values by arm and column key, only where `source` gives them."""

    name: str
    title: str
    arms: tuple[str, ...]
    measured: tuple[Column, ...]
    reported_columns: tuple[Column, ...] = ()
    reported: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    source: str = ""
    note: str = ""


def perturbed(unit="bits per byte"):
    """Columns of H-Net's five perturbations and of what they cost, as `lmlab.evaluation.bits_per_byte.Robustness` names
    them."""
    names = ("Antspeak", "Drop", "Random case", "Repeat", "Upper case", "Clean")
    columns = tuple(Column(name.lower().replace(" ", "_"), name, unit, "lower", 3) for name in names)
    return (*columns, Column("cost", "Mean - clean", unit, "lower", 3))


def robustness(arms, note=""):
    """The table of what perturbations cost `arms`. `note`: what else a reader must know."""
    source = "H-Net's five perturbations (arXiv 2507.07955, Table 3) of excerpts of every test document."
    return Table("robustness", "Perturbed text", arms, perturbed(), note=f"{source} {note}".strip())


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What an experiment module defines as EXPERIMENT."""

    paper: Paper
    scales: tuple[Scale, ...]
    arms: tuple[Arm, ...]
    tables: tuple[Table, ...]
    anchor: str  # arm whose FLOPs per byte the others are matched to; of studies: that they are compared with
    name: str = ""  # filled in from the module's name

    def arm(self, name):
        """The arm called `name`."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UserError(f"{self.name} has no arm {name!r}{_nearest(name, [a.name for a in self.arms])}")

    def at(self, scale):
        """The arms that exist at `scale`, all of them at an unknown one."""
        return tuple(arm for arm in self.arms if scale in (arm.scales or (*self.scales, scale)))

    def resolve(self, arm, scale, overrides=(), seed=None, corpus=None):
        """The Run (or Study) of an arm at a scale, on the files at the path `corpus` if given, with `field=value`
        overrides."""
        if scale not in self.scales:
            raise UserError(f"{self.name} has no scale {scale!r}{_nearest(scale, self.scales)}")
        arm = self.arm(arm)
        if arm.scales and scale not in arm.scales:
            raise UserError(f"{self.name}/{arm.name} has no scale {scale!r}; it has {', '.join(arm.scales)}.")
        run = arm.run(scale)
        if corpus is not None:
            run = run.reading(corpus)
        if seed is not None:
            run = run.seeded(seed)
        run = config.override(run, overrides)
        if isinstance(run, Run) and any(text.startswith("model.") for text in overrides):
            _require_buildable(run, overrides)
        return run


def _require_buildable(run, overrides):
    """UserError if settings that each fit their field make no model: a width that heads do not divide, for one."""
    from lmlab.models.language_model import abstract_init

    try:
        abstract_init(run.model)
        run.flops()
    except UserError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"No model can be built with {', '.join(overrides)}: {reason}.") from error


def _nearest(word, known):
    close = difflib.get_close_matches(word, known, 1, 0.4)
    return f"; did you mean {close[0]}?" if close else f"; it has {', '.join(known)}."


def names():
    """Names of all experiment modules."""
    import experiments

    return sorted(m.name for m in pkgutil.iter_modules(experiments.__path__) if not m.ispkg)


def load(name):
    """The experiment of module `experiments/<name>.py`."""
    if name not in names():
        raise UserError(f"There is no experiment {name!r}{_nearest(name, names())}")
    experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    return dataclasses.replace(experiment, name=name)


def arms_of(paper, scale):
    """Paths "paper/arm" of the arms that exist at a scale."""
    return [f"{paper}/{arm.name}" for arm in load(paper).at(scale)]


def find(path):
    """(experiment, arm name) of "paper/arm"."""
    paper, slash, arm = path.partition("/")
    experiment = load(paper)
    if not slash:
        raise UserError(f"Name an arm of {paper}: {', '.join(f'{paper}/{a.name}' for a in experiment.arms)}.")
    return experiment, experiment.arm(arm).name
