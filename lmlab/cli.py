"""The command line: parses, calls, prints. Bad input ends in one sentence and exit code 2."""

import argparse
import os
import sys

from lmlab.errors import Stopped, UserError


def main(argv=None):
    """Entry point of `lmlab`."""
    args = _parser().parse_args(argv)
    try:
        args.call(args)
    except UserError as error:
        print(f"lmlab: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Stopped as stopped:
        print(f"lmlab: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print("lmlab: interrupted; the same command resumes.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser():
    parser = argparse.ArgumentParser(prog="lmlab", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, call, help):
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(call=call)
        return sub

    def at_scale(sub):
        sub.add_argument("--scale", default="smoke", help="smoke, small, mid or paper (default: smoke)")
        sub.add_argument("--corpus", metavar="PATH", help="file or folder to read instead of the arm's own corpus")
        sub.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override any field")

    command("list", _list, "list experiments, their arms and scales")

    sub = command("show", _show, "show a resolved run with parameters and FLOPs per byte, or a paper's arms side by side")
    sub.add_argument("name", help="paper or paper/arm, such as hnet/hnet_1stage")
    at_scale(sub)

    sub = command("train", _train, "train one arm; the same command resumes it")
    sub.add_argument("name", help="paper/arm")
    at_scale(sub)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--dir", help="run directory (default: runs/PAPER/SCALE/ARM/seedN)")
    sub.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="fail where this is missing (default: the best)")
    sub.add_argument("--distributed", action="store_true", help="one of several processes, with a common run directory")
    sub.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where the machine does not know it")
    sub.add_argument("--processes", type=int, metavar="N", help="how many there are, likewise")
    sub.add_argument("--process", type=int, metavar="I", help="which of them this is, likewise")

    sub = command("table", _table, "train every arm of a paper's tables, print them and write report.html")
    sub.add_argument("name", help="paper")
    at_scale(sub)
    sub.add_argument("--seeds", default="0", help="comma-separated (default: 0)")
    sub.add_argument("--dir", default="runs", help="folder of run directories (default: runs)")

    sub = command("results", _results, "print a paper's tables as measured and committed, without training")
    sub.add_argument("name", help="paper")
    sub.add_argument("--scale", default="small", help="smoke, small, mid or paper (default: small)")
    sub.add_argument("--markdown", action="store_true", help="as in experiments/README.md")

    sub = command("sample", _sample, "continue a prompt with a trained model")
    sub.add_argument("directory", help="run directory or converted model")
    sub.add_argument("--prompt", default="def ", help="text to continue")
    sub.add_argument("--bytes", type=int, default=256, help="about how many new bytes")
    sub.add_argument("--temperature", type=float, default=0.8)
    sub.add_argument("--top-p", type=float, default=0.95)
    sub.add_argument("--seed", type=int, default=0)

    sub = command("inspect", _inspect, "show chunk boundaries and per-byte surprisal of a text under a trained model")
    sub.add_argument("directory", help="run directory or converted model")
    sub.add_argument("file", nargs="?", help="text file (default: an excerpt of the run's test split)")

    sub = command("convert", _convert, "turn released weights into a directory that lmlab reads, or a directory back")
    sub.add_argument("family", choices=["hnet"], help="whose names and layouts")
    sub.add_argument("source", metavar="SRC", help="checkpoint file, or run directory or converted model")
    sub.add_argument("out", metavar="DST", help="new directory, or new .pt or .safetensors file")
    sub.add_argument("--config", metavar="FILE", help="config.json that came with the checkpoint")
    sub.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the new file (default: as stored)")

    sub = command("data", _data, "bake the corpus of an arm and describe it")
    sub.add_argument("name", help="paper/arm")
    at_scale(sub)
    sub.add_argument("--verify", action="store_true", help="check every file against its SHA-256")

    sub = command("compile", _compile, "compile an arm's training step for TPUs that are not here: does it fit, how fast?")
    sub.add_argument("name", help="paper/arm, or paper for all of its arms")
    at_scale(sub)
    sub.set_defaults(scale="paper")
    sub.add_argument("--topology", default="v5p:4x4x4", help="generation and shape of a slice (default: v5p:4x4x4)")
    sub.add_argument("--slices", type=int, default=1, help="slices, joined by the data center's network (default: 1)")
    sub.add_argument("--markdown", action="store_true", help="end with a table of all arms")

    sub = command("bench", _bench, "measure speed on this machine, beside what a user would pick instead")
    sub.add_argument("what", choices=["train", "decode", "chunking", "kernels"])
    sub.add_argument("--repeats", type=int, default=5)
    return parser


def _prepare(device=None):
    """Process-wide settings, before JAX starts; `device`: the only kind that will do."""
    from lmlab.memory import keep_freed_memory

    keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    from lmlab.data.bake import cache_directory

    if device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    jax.config.update("jax_compilation_cache_dir", os.path.join(cache_directory(), "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _resolve(args, seed=None):
    from lmlab import experiment

    found, arm = experiment.find(args.name)
    return found, arm, found.resolve(arm, args.scale, args.set, seed, args.corpus)


def _list(args):
    from rich.console import Console
    from rich.table import Table

    from lmlab import experiment

    table = Table("experiment", "label", "scales", box=None)
    for name in experiment.names():
        loaded = experiment.load(name)
        table.add_row(f"[bold]{name}[/]", f"{loaded.paper.title} ({loaded.paper.year})", ", ".join(loaded.scales))
        for arm in loaded.arms:
            table.add_row(f"  {name}/{arm.name}", arm.label, "")
    Console().print(table)


def _show(args):
    from rich.console import Console
    from rich.table import Table

    from lmlab import config, experiment
    from lmlab.models.language_model import count_parameters

    console = Console(highlight=False, soft_wrap=True)
    if "/" in args.name:
        loaded, name, run = _resolve(args)
        print(config.to_text(run))
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
    anchor = sum(loaded.resolve(loaded.anchor, args.scale, corpus=args.corpus).flops_per_byte().values())
    table = Table("arm", "parameters", "forward FLOPs per byte", f"against {loaded.anchor}", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for arm in loaded.arms:
        run = loaded.resolve(arm.name, args.scale, args.set if name in (None, arm.name) else (), corpus=args.corpus)
        flops = sum(run.flops_per_byte().values())
        style = "bold" if arm.name == name else ""
        cells = (arm.name, f"{count_parameters(run.model):,}", f"{flops:,.0f}", f"{flops / anchor - 1:+.1%}")
        table.add_row(*cells, style=style)
    console.print(table)
    for arm in loaded.arms:
        if args.scale in arm.notes:
            print(f"\n{arm.name}: {arm.notes[args.scale]}")


def _changes(args):
    """What makes these runs differ from the experiment's own."""
    return [*args.set, *([os.path.abspath(args.corpus)] if args.corpus else [])]


def _train_one(run, directory, arm):
    from lmlab.report.terminal import training_progress
    from lmlab.runner import run_arm
    from lmlab.training import processes

    processes.all_devices()  # a UserError now, if there are none
    if not processes.is_first():
        return run_arm(run, directory, arm)
    with training_progress(run.steps) as progress:

        def on_metrics(step, values):
            progress.update(
                step, loss=values["loss"], bpb=values["bpb"], bytes_per_second=values["bytes_per_second"]
            )

        return run_arm(run, directory, arm, on_metrics)


def _train(args):
    from lmlab.runner import run_directory

    loaded, arm, run = _resolve(args, args.seed)
    directory = args.dir or run_directory("runs", loaded.name, args.scale, arm, args.seed, _changes(args))
    if not args.distributed and (args.coordinator, args.processes, args.process) != (None, None, None):
        raise UserError("--coordinator, --processes and --process go with --distributed.")
    _prepare(args.device)
    if args.distributed:
        from lmlab.training import processes

        processes.join(args.coordinator, args.processes, args.process)
    result = _train_one(run, directory, arm)
    if result is None:
        return
    for name, value in result["metrics"].items():
        if isinstance(value, float):
            print(f"{name:<24} {value:.4f}")
    print(f"run directory: {directory}")


def _table(args):
    from rich.console import Console

    from lmlab import experiment
    from lmlab.report.page import write_page
    from lmlab.report.results import load_results
    from lmlab.report.tables import render_terminal
    from lmlab.runner import gather_provenance, run_directory, save_table, table_view
    from lmlab.training.directory import check

    loaded = experiment.load(args.name)
    try:
        seeds = [int(s) for s in args.seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds takes integers separated by commas, not {args.seeds!r}.") from None
    changes, jobs = _changes(args), []
    for seed in seeds:
        for arm in loaded.arms:
            run = loaded.resolve(arm.name, args.scale, args.set, seed, args.corpus)
            directory = run_directory(args.dir, loaded.name, args.scale, arm.name, seed, changes)
            check(run, directory)
            jobs.append((arm, seed, run, directory))
    _prepare()
    console = Console(width=None if sys.stdout.isatty() else 160)
    for i, (arm, seed, run, directory) in enumerate(jobs):
        print(f"[{i + 1}/{len(jobs)}] {loaded.name}/{arm.name} at {args.scale}, seed {seed}", flush=True)
        _train_one(run, directory, arm.name)
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


def _results(args):
    import experiments
    from rich.console import Console

    from lmlab import experiment
    from lmlab.report.tables import render_markdown, render_terminal
    from lmlab.runner import load_table, table_view

    loaded = experiment.load(args.name)
    path = os.path.join(os.path.dirname(experiments.__file__), "results", f"{args.name}_{args.scale}.json")
    if not os.path.exists(path):
        raise UserError(f"No results of {args.name} at scale {args.scale} are committed.")
    results, provenance = load_table(path)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in loaded.tables:
        view = table_view(loaded, table, results)
        if args.markdown:
            print(render_markdown(view))
        else:
            console.print(render_terminal(view))
    sizes = ", ".join(
        f"{name} {s['source_bytes']:,} bytes in {s['documents']:,} documents" for name, s in provenance["splits"].items()
    )
    print(f"Splits: {sizes}.\n")
    print(f"Measured by `{provenance['command']}` at commit {provenance['commit']}, {provenance['date']}.")


def _sample(args):
    from lmlab.runner import load_run, stream_text, tokenizer_of

    if args.bytes < 1 or args.temperature < 0 or not 0 < args.top_p <= 1:
        raise UserError("Sampling needs --bytes of at least 1, --temperature of at least 0 and --top-p in (0, 1].")
    _prepare()
    run, model, params = load_run(args.directory)
    _reads_left_to_right(run, args.directory)
    tokenizer = tokenizer_of(run, model, args.directory)
    prompt = args.prompt.encode("utf-8", "surrogateescape")
    pieces = stream_text(model, params, tokenizer, prompt, args.bytes, args.temperature, args.top_p, args.seed)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _reads_left_to_right(run, directory):
    if run is not None and not run.corruption.continues:
        raise UserError(f"{directory} holds a model that fills gaps, and can neither continue nor score a text by itself.")


def _inspect(args):
    from rich.console import Console

    from lmlab.evaluation.passages import read_passage
    from lmlab.report.terminal import print_chunks, print_surprisal
    from lmlab.runner import load_data, load_run, look, tokenizer_of

    text = None
    if args.file:
        try:
            with open(args.file, "rb") as f:
                text = f.read()
        except OSError as error:
            raise UserError(f"Cannot read {args.file}: {error.strerror}.") from error
        if not text:
            raise UserError(f"{args.file} is empty.")
    _prepare()
    run, model, params = load_run(args.directory)
    _reads_left_to_right(run, args.directory)
    if text is not None:
        # A converted model has no rows of its own length: the text is one row, up to the length it was trained on.
        length, rows = (run.length, run.batch_size) if run else (min(8192, -(-(len(text) + 2) // 64) * 64), 1)
        passages = [read_passage(model, params, tokenizer_of(run, model, args.directory), text, length, rows)]
    elif run:
        passages = look(run, params, load_data(run))
    else:
        raise UserError(f"{args.directory} is a converted model without a test split: name a text file.")
    console = Console()
    for passage in passages:
        print_chunks(console, passage)
        print_surprisal(console, passage)


def _convert(args):
    from lmlab.convert.hnet import export_checkpoint, import_checkpoint

    if os.path.isdir(args.source):
        if args.config:
            raise UserError("--config is for reading a checkpoint; a directory holds its own.")
        export_checkpoint(args.source, args.out, args.dtype)
    else:
        if args.dtype:
            raise UserError("--dtype is for writing a checkpoint; reading one keeps its dtypes.")
        if not args.config:
            raise UserError("A checkpoint needs --config FILE, the config.json that came with it.")
        import_checkpoint(args.source, args.config, args.out)
    print(args.out)


def _data(args):
    from lmlab.data.bake import bake

    _, _, run = _resolve(args)
    baked = bake(run.corpus, run.tokenizer)
    if args.verify:
        baked.verify()
    print(baked.directory)
    for name, split in baked.manifest["splits"].items():
        print(
            f"{name:<12} {split['documents']:>8,} documents {split['source_bytes']:>14,} bytes "
            f"{split['tokens']:>14,} tokens  {split['source_bytes'] / split['tokens']:.3f} bytes per token"
        )


def _compile(args):
    from lmlab import experiment
    from lmlab.compile import HEADER, fit, row

    if "/" in args.name:
        found, arm = experiment.find(args.name)
        arms = [arm]
    else:
        found = experiment.load(args.name)
        arms = [arm.name for arm in found.arms]
    runs = {arm: found.resolve(arm, args.scale, args.set, None, args.corpus) for arm in arms}
    rows = [HEADER]
    for arm, run in runs.items():
        print(f"{found.name}/{arm} at {args.scale}", flush=True)
        rows.append(row(f"{found.name}/{arm}", *fit(run, args.topology, args.slices)))
    if args.markdown:
        print("\n".join(rows))


def _bench(args):
    _prepare()
    import importlib

    importlib.import_module(f"lmlab.bench.{args.what}").main(args.repeats)


if __name__ == "__main__":
    main()
