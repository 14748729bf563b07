"""The process' memory: freed blocks are kept (glibc), and compiled programs dropped before there are too many.

XLA's CPU back end allocates the outputs and temporaries of every execution anew. By default glibc returns blocks of
that size to the kernel, and each step pays a page fault per 4 KiB again: measured here, writing a fresh 32 MB array
took five times as long as writing one into memory that the process already had.

Each program that it compiles takes several mappings of memory, of which a process may hold only so many (Linux: 65,530):
at the next it dies.
"""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
MAPPINGS = 20_000


def keep_freed_memory():
    """Tell malloc to serve large blocks from one heap that it never gives back. Does nothing without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never; the largest int is 2 GiB, and a step's temporaries may be more
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_TOP_PAD, 64 * 2**20)


def drop_programs():
    """Forget all compiled programs, if they take more than `MAPPINGS` mappings: those that are needed are read or compiled
    again. To be called between runs."""
    import jax

    mappings = 0
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as maps:
        mappings = sum(1 for _ in maps)
    if mappings > MAPPINGS:
        jax.clear_caches()
