"""What several commands share."""

import glob
import os


def prepare(device=None):
    """Process-wide settings, before JAX starts; `device`: the only kind that will do."""
    from lmlab.memory import keep_freed_memory

    keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if device != "tpu":
        _expect_no_tpu()
    import jax

    from lmlab.data.bake import cache_directory

    if device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    jax.config.update("jax_compilation_cache_dir", os.path.join(cache_directory(), "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _expect_no_tpu():
    """Where there is no TPU, spare the reader libtpu's complaints about that: it may be here only to compile for some.

    JAX asks it for devices all the same; told where it is, it finds none without a word. It would open device files.
    """
    if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/*"):
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def resolve(args, seed=None):
    """(experiment, name of the arm, its Run) that the arguments name."""
    from lmlab import experiment

    found, arm = experiment.find(args.name)
    return found, arm, found.resolve(arm, args.scale, args.set, seed, args.corpus)


def changes_of(args):
    """What makes these runs others than the experiment's own."""
    from lmlab.training.directory import CHANGEABLE

    changeable = tuple(path + end for path in CHANGEABLE for end in "=.")
    settings = [text for text in args.set if not text.startswith(changeable)]
    return [*settings, *([os.path.abspath(args.corpus)] if args.corpus else [])]
