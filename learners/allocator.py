"""How the C library gives a learner's memory back: on a CPU, as seldom as it can."""

from __future__ import annotations

import ctypes

# Options of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_NEVER = 2**31 - 1  # bytes free at the heap's end before it shrinks
_GROWTH_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Have this process keep what it frees for its next allocations, from now on.

    An update allocates and frees the same activations again and again. By default glibc maps each
    large one anew and gives it back at once, and the system clears every page again at its first
    touch. Kept, the pages are there; the process stays as large as its largest update.

    Returns:
        Whether the C library has these options (glibc has).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # One arena: those of other threads cannot hold blocks above 64 MiB.
    options = (
        (_ARENA_MAX, 1),
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, _NEVER),
        (_TOP_PAD, _GROWTH_BYTES),
    )
    return all([mallopt(option, value) for option, value in options])
