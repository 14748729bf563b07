"""`lmlab train`."""

from lmlab.commands.common import changes_of, prepare, resolve
from lmlab.errors import UserError


def train_one(run, directory, arm, profile=None):
    """`run_arm` with a bar of its progress."""
    from lmlab.evaluation.study import Study
    from lmlab.memory import drop_programs
    from lmlab.report.terminal import training_progress
    from lmlab.runner import run_arm
    from lmlab.training import processes

    drop_programs()  # of the runs before
    if isinstance(run, Study):
        return run_arm(run, directory, arm)
    processes.all_devices()  # a UserError now, if there are none
    if not processes.is_first():
        return run_arm(run, directory, arm, profile=profile)
    with training_progress(run.steps) as progress:

        def on_metrics(step, values):
            progress.update(
                step, loss=values["loss"], bpb=values["bpb"], bytes_per_second=values["bytes_per_second"]
            )

        return run_arm(run, directory, arm, on_metrics, profile)


def train(args):
    """`lmlab train PAPER/ARM`."""
    from lmlab.evaluation.study import Study
    from lmlab.runner import run_directory
    from lmlab.training.profile import check_steps, parse_steps

    loaded, arm, run = resolve(args, args.seed)
    directory = args.dir or run_directory("runs", loaded.name, args.scale, arm, args.seed, changes_of(args))
    if not args.distributed and (args.coordinator, args.processes, args.process) != (None, None, None):
        raise UserError("--coordinator, --processes and --process go with --distributed.")
    if isinstance(run, Study) and (args.profile is not None or args.distributed):
        raise UserError(f"{args.name} is a study: it takes neither --profile nor --distributed.")
    profile = parse_steps(args.profile) if args.profile is not None else None
    if profile:
        check_steps(profile, run)
    prepare(args.device)
    if args.distributed:
        from lmlab.training import processes

        processes.join(args.coordinator, args.processes, args.process)
    result = train_one(run, directory, arm, profile)
    if result is not None:
        describe_result(result, run, directory)


def describe_result(result, run, directory):
    """Print what a finished run measured, where its time went and where it lies."""
    from lmlab.evaluation.study import Study
    from lmlab.report.times import describe
    from lmlab.training.writer import last_line

    for name, value in result["metrics"].items():
        if isinstance(value, float):
            print(f"{name:<24} {value:.4f}")
    if not isinstance(run, Study) and (times := last_line(directory, run.steps, "goodput")):
        print(describe(times))
    print(f"run directory: {directory}")
