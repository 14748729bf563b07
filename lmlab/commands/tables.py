"""`lmlab table` and `lmlab results`."""

import os
import sys

from lmlab.commands.common import changes_of, prepare
from lmlab.commands.train import train_one
from lmlab.errors import UserError


def table(args):
    """`lmlab table PAPER`: train what is missing, then print and write the tables and the page."""
    from rich.console import Console

    from lmlab import experiment
    from lmlab.report.page import write_page
    from lmlab.report.results import load_results
    from lmlab.report.tables import render_terminal
    from lmlab.runner import gather_provenance, run_directory, save_table, table_view
    from lmlab.training.directory import check
    from lmlab.training.known import Known

    loaded = experiment.load(args.name)
    try:
        seeds = [int(s) for s in args.seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds takes integers separated by commas, not {args.seeds!r}.") from None
    changes, jobs = changes_of(args), []
    shown = {name for table in loaded.tables for name in table.arms}
    for seed in seeds:
        for arm in (arm for arm in loaded.at(args.scale) if arm.name in shown):
            run = loaded.resolve(arm.name, args.scale, args.set, seed, args.corpus)
            directory = run_directory(args.dir, loaded.name, args.scale, arm.name, seed, changes)
            check(run, directory)
            jobs.append((arm, seed, run, directory))
    prepare()
    console, known = Console(width=None if sys.stdout.isatty() else 160), Known()
    for i, (arm, seed, run, directory) in enumerate(jobs):
        print(f"[{i + 1}/{len(jobs)}] {loaded.name}/{arm.name} at {args.scale}, seed {seed}", flush=True)
        known.copy(run, directory)
        train_one(run, directory, arm.name)
        known.add(run, directory)
    root = os.path.join(args.dir, loaded.name, args.scale)
    results = load_results([directory for *_, directory in jobs])
    views = [table_view(loaded, table, results) for table in loaded.tables]
    for view in views:
        console.print(render_terminal(view))
    command = f"lmlab table {args.name} --scale {args.scale} --seeds {args.seeds}"
    command += (f" --corpus {args.corpus}" if args.corpus else "") + "".join(f" --set {s}" for s in args.set)
    provenance = {
        "command": command,
        "scale": args.scale,
        "seeds": seeds,
        **gather_provenance(results),
    }
    save_table(os.path.join(root, "table.json"), loaded, args.scale, results, provenance)
    path = os.path.join(root, "report.html")
    labels = {arm.name: arm.label for arm in loaded.arms}
    title = f"{loaded.paper.title} ({loaded.paper.year})"
    write_page(path, title, loaded.paper.claim, views, results, provenance, labels)
    print(f"report: {path}")


def results(args):
    """`lmlab results PAPER`: the committed measurements."""
    import experiments
    from rich.console import Console

    from lmlab import config, experiment
    from lmlab.report.sweep import view_of
    from lmlab.report.tables import render_markdown, render_terminal
    from lmlab.runner import load_table, table_view

    loaded = experiment.load(args.name)
    folder, file = os.path.join(os.path.dirname(experiments.__file__), "results"), f"{args.name}_{args.scale}.json"
    path, swept = os.path.join(folder, file), os.path.join(folder, "sweeps", file)
    if not os.path.exists(path):
        raise UserError(f"No results of {args.name} at scale {args.scale} are committed.")
    results, provenance = load_table(path)
    views = [table_view(loaded, table, results) for table in loaded.tables]
    if os.path.exists(swept):
        views.append(view_of(config.load_json(swept), {arm.name: arm.label for arm in loaded.arms}))
    console = Console(width=None if sys.stdout.isatty() else 160)
    for view in views:
        if args.markdown:
            print(render_markdown(view))
        else:
            console.print(render_terminal(view))
    sizes = ", ".join(
        f"{name} {s['source_bytes']:,} bytes in {s['documents']:,} documents" for name, s in provenance["splits"].items()
    )
    if sizes:
        print(f"Splits: {sizes}.\n")
    print(f"Measured by `{provenance['command']}` at commit {provenance['commit']}, {provenance['date']}.")
