"""Settings of every test: the CPU, programs that compile fast rather than run fast, and are kept between runs."""

import gc
import os
import re

# Nearly all of the suite's time is compiling programs that then run once. Child processes inherit these.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402

from lmlab.memory import drop_programs, keep_freed_memory  # noqa: E402

# The first halves the compile time of unoptimized code, the second saves a tenth more: tests have a core each.
PLAIN = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
# Flags of XLA come and go with its versions, and it aborts at one that it does not know.
if jax.__version_info__[:2] == (0, 10) and PLAIN not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {PLAIN}".strip()

keep_freed_memory()
jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/lmlab/jax-tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


MANY_ARMS = ("test_all_arms.py", "test_causality.py", "test_encoder_decoder.py")

# The graphs that tracing leaves are large and live long: to look through them again and again took a third of the time.
gc.collect()
gc.freeze()
gc.set_threshold(200_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of one file go to one worker, and where a file tests every arm, those of one experiment."""
    from xdist.scheduler import LoadScopeScheduling

    class ByExperiment(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            name = re.search(r"\[(\w+)", test) if file.endswith(MANY_ARMS) else None
            return f"{file}::{name[1]}" if name else file

    return ByExperiment(config, log)


@pytest.fixture(autouse=True)
def few_programs():
    """Compiled programs are dropped once there are many."""
    yield
    drop_programs()
