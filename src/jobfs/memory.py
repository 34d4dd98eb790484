"""Memory of the C library: free memory goes back to the system.

By default, glibc gives each thread an arena of its own, and keeps in it all memory that it once needed: after a quarter of an
hour with eight busy programs that is more than all memory in use.
"""

from __future__ import annotations

import contextlib
import ctypes

#: mallopt(3): the numbers of two parameters, and their values.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_ARENAS, _LARGE = 2, 1 << 20


def keep_little() -> None:
    """Have all threads share two arenas; a block of a megabyte or more is returned as soon as it is free."""
    with contextlib.suppress(AttributeError):  # it may be another library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return whole pages that are free, wherever they lie; that takes a few milliseconds."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
