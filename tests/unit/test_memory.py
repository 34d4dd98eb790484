"""Free memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

_HELD = """
import ctypes, threading
from jobfs import memory
memory.keep_little()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

blocks = [libc.malloc(60_000) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, 60_000)
for number, block in enumerate(blocks):
    if number % 10:  # the others keep all of it
        libc.free(block)
before = resident()
memory.give_back()
print(before - resident())
"""


def test_whole_pages_that_are_free_go_back_wherever_they_lie() -> None:
    """vfs/semantics.md 6, Bounds: memory comes back to rest."""
    run = subprocess.run(
        [sys.executable, "-c", _HELD], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(run.stdout) > 30_000, "of 54 MB, in KB"
