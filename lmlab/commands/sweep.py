"""`lmlab sweep`."""

import dataclasses
import json
import os
import pathlib
import sys

from lmlab.commands.common import changes_of, prepare
from lmlab.commands.train import train_one
from lmlab.errors import Diverged, UserError


def sweep(args):
    """`lmlab sweep PAPER FIELD VALUES`: train every arm with each value and score the validation split, no other."""
    from rich.console import Console

    from lmlab import experiment
    from lmlab.report.results import load_results
    from lmlab.report.sweep import view_of
    from lmlab.report.tables import render_terminal
    from lmlab.runner import gather_provenance, run_directory
    from lmlab.training.directory import check, write
    from lmlab.training.known import Known

    loaded, values = experiment.load(args.name), args.values.split(",")
    if len(set(values)) < len(values) or len(values) < 2 or not all(map(_is_number, values)):
        raise UserError(f"A sweep takes two or more different numbers, separated by commas, not {args.values!r}.")
    shown = {name for table in loaded.tables for name in table.arms}
    arms, jobs = [arm for arm in loaded.at(args.scale) if arm.name in shown], []
    for arm in arms:
        for value in values:
            setting = f"{args.field}={value}"
            run = loaded.resolve(arm.name, args.scale, [*args.set, setting], args.seed, args.corpus)
            if isinstance(run, experiment.Study):
                raise UserError(f"{args.name}/{arm.name} is a study: there is nothing to sweep.")
            run, changes = dataclasses.replace(run, evaluators=()), ["sweep", *changes_of(args), setting]
            directory = run_directory(args.dir, loaded.name, args.scale, arm.name, args.seed, changes)
            check(run, directory)
            jobs.append((arm.name, value, run, directory))
    prepare()
    known = Known()
    for i, (arm, value, run, directory) in enumerate(jobs):
        print(f"[{i + 1}/{len(jobs)}] {loaded.name}/{arm} at {args.scale}, {args.field}={value}", flush=True)
        known.copy(run, directory)
        try:
            train_one(run, directory, arm)
            known.add(run, directory)
        except Diverged as halt:  # an answer too
            print(f"lmlab: {halt}", file=sys.stderr)
    results = load_results([directory for *_, directory in jobs])
    if not results:
        raise UserError(f"Every training of this sweep of {args.field} diverged.")
    by_directory = {result.directory: result.metrics["validation_bpb"] for result in results}
    content = {
        "experiment": loaded.name,
        "scale": args.scale,
        "field": args.field,
        "values": values,
        "provenance": {
            "command": f"lmlab sweep {args.name} {args.field} {args.values} --scale {args.scale} --seed {args.seed}"
            + (f" --corpus {args.corpus}" if args.corpus else "")
            + "".join(f" --set {s}" for s in args.set),
            **gather_provenance(results),
        },
        "validation_bpb": {
            arm.name: [by_directory.get(pathlib.Path(d)) for name, *_, d in jobs if name == arm.name] for arm in arms
        },
    }
    root = os.path.join(args.dir, loaded.name, args.scale)
    path = run_directory(root, "sweeps", "", args.field, args.seed, changes_of(args)) + ".json"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write(path, json.dumps(content, indent=1))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(render_terminal(view_of(content, {arm.name: arm.label for arm in arms})))
    print(f"sweep: {path}")


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
