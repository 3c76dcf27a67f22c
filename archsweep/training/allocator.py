"""The C library's allocator, told that a training process will need the memory again that it gives back."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_NEVER = 2**31 - 1  # bytes: the largest number that it takes
_SMALLER = 2**25  # what an older glibc takes at most (HEAP_MAX_SIZE / 2)


def keep_freed_memory() -> None:
    """Let this process keep what its tensors free, up to its peak; nothing where the C library is not glibc.

    By default glibc returns a step's activations to the system, which hands them out again page by page, 2,000 page faults a step: on a
    CPU small models train about a tenth faster without (benchmarks/RESULTS.md, page faults).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        _ = mallopt(_MMAP_THRESHOLD, _NEVER) or mallopt(_MMAP_THRESHOLD, _SMALLER)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def return_freed_memory() -> None:
    """Give the system back what this process has freed and kept."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
