"""`lmlab list` and `lmlab show`."""

from lmlab.commands.common import resolve


def list_experiments(args):
    """`lmlab list`."""
    from rich.console import Console
    from rich.table import Table

    from lmlab import experiment

    table = Table("experiment", "label", "scales", box=None)
    for name in experiment.names():
        loaded = experiment.load(name)
        table.add_row(f"[bold]{name}[/]", f"{loaded.paper.title} ({loaded.paper.year})", ", ".join(loaded.scales))
        for arm in loaded.arms:
            table.add_row(f"  {name}/{arm.name}", arm.label, ", ".join(arm.scales or ()))
    Console().print(table)


def show(args):
    """`lmlab show PAPER[/ARM]`."""
    from rich.console import Console
    from rich.table import Table

    from lmlab import config, experiment
    from lmlab.models.language_model import count_parameters

    console = Console(highlight=False, soft_wrap=True)
    if "/" in args.name:
        loaded, name, run = resolve(args)
        print(config.to_text(run))
        if isinstance(run, experiment.Study):
            return
        parts = run.flops_per_byte()
        print(f"\nparameters        {count_parameters(run.model):,}")
        print(f"training bytes    {run.source_bytes():,}")
        table = Table("part", "forward FLOPs per byte", "share", box=None)
        table.columns[1].justify = table.columns[2].justify = "right"
        for part, value in parts.items():
            table.add_row(part, f"{value:,.0f}", f"{value / sum(parts.values()):.1%}")
        table.add_row("[bold]all[/]", f"[bold]{sum(parts.values()):,.0f}[/]", "")
        console.print(table)
        print()
    else:
        loaded, name = experiment.load(args.name), None
        print(f"{loaded.paper.title} ({loaded.paper.year}), {loaded.paper.url}\n{loaded.paper.claim}\n")
    runs = {}
    for arm in loaded.at(args.scale):
        run = loaded.resolve(arm.name, args.scale, args.set if name in (None, arm.name) else (), corpus=args.corpus)
        if isinstance(run, experiment.Study):
            print(f"{arm.name}: {arm.label}; a study")
        else:
            runs[arm.name] = arm, run
    if runs:
        console.print(_costs(loaded, args, runs, name))
    for arm in loaded.at(args.scale):
        if args.scale in arm.notes:
            print(f"\n{arm.name}: {arm.notes[args.scale]}")


def _costs(loaded, args, runs, name):
    """A table of parameters and FLOPs per byte of {arm: (Arm, Run)}, that called `name` in bold."""
    from rich.table import Table

    from lmlab.models.language_model import count_parameters

    anchor = sum(loaded.resolve(loaded.anchor, args.scale, corpus=args.corpus).flops_per_byte().values())
    table = Table("arm", "parameters", "forward FLOPs per byte", f"against {loaded.anchor}", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for arm, run in runs.values():
        flops = sum(run.flops_per_byte().values())
        style = "bold" if arm.name == name else ""
        cells = (arm.name, f"{count_parameters(run.model):,}", f"{flops:,.0f}", arm.size or f"{flops / anchor - 1:+.1%}")
        table.add_row(*cells, style=style)
    return table
