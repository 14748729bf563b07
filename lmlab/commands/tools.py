"""`lmlab convert`, `lmlab data`, `lmlab compile` and `lmlab bench`."""

import os

from lmlab.commands.common import prepare, resolve
from lmlab.errors import UserError


def convert(args):
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


def data(args):
    from lmlab.data.bake import bake

    _, _, run = resolve(args)
    baked = bake(run.corpus, run.tokenizer)
    if args.verify:
        baked.verify()
    print(baked.directory)
    for name, split in baked.manifest["splits"].items():
        print(
            f"{name:<12} {split['documents']:>8,} documents {split['source_bytes']:>14,} bytes "
            f"{split['tokens']:>14,} tokens  {split['source_bytes'] / split['tokens']:.3f} bytes per token"
        )


def compile_step(args):
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


def bench(args):
    prepare()
    import importlib

    importlib.import_module(f"lmlab.bench.{args.what}").main(args.repeats)
