"""Settings of every test: the CPU, programs that compile fast rather than run fast, and are kept between runs."""

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


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file():
    """Compiled programs are dropped behind each file: a process may hold only so many mappings of memory (Linux: 65,530),
    and XLA dies, without a word, at the next."""
    yield
    jax.clear_caches()
