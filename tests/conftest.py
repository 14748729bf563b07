"""Settings of every test: the CPU, programs that compile fast rather than run fast, and are kept between runs."""

import contextlib
import os

# Nearly all of the suite's time is compiling programs that then run once. Child processes inherit these.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402

from lmlab.memory import keep_freed_memory  # noqa: E402

PLAIN = "--xla_cpu_use_fusion_emitters=false"  # halves the compile time of unoptimized code
# Flags of XLA come and go with its versions, and it aborts at one that it does not know.
if jax.__version_info__[:2] == (0, 10) and PLAIN not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {PLAIN}".strip()

keep_freed_memory()
jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/lmlab/jax-tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


MANY_ARMS = {"test_all_arms.py", "test_causality.py"}  # shared out by experiment; other files go whole to one worker
MAPPINGS = 20_000


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The groups of tests that `--dist loadgroup` keeps together."""
    for item in items:
        arm = getattr(item, "callspec", None) if item.path.name in MANY_ARMS else None
        arm = next((str(v) for k, v in arm.params.items() if k in ("name", "path")), "") if arm else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name}:{arm.split('/')[0]}"))


@pytest.fixture(autouse=True)
def few_programs():
    """Compiled programs are dropped once there are many: a process may hold only so many mappings of memory (Linux:
    65,530), and XLA dies, without a word, at the next."""
    yield
    with contextlib.suppress(FileNotFoundError), open("/proc/self/maps", "rb") as maps:
        if sum(1 for _ in maps) > MAPPINGS:
            jax.clear_caches()
