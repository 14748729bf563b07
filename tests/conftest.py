"""Settings of every test: the CPU, shapes that must be meant, compiled programs kept between runs."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402

from lmlab.memory import keep_freed_memory  # noqa: E402

keep_freed_memory()
jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/lmlab/jax-tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
