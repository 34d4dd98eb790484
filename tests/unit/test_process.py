"""What a process has of its system: memory that goes back, and a service manager that hears it, if one listens."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobfs.process import notify_manager

_HELD = """
import ctypes, threading
from jobfs import process
process.limit_arenas()
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
process.trim_memory()
print(before - resident())
"""


def test_free_whole_pages_are_returned_wherever_they_are() -> None:
    """vfs/semantics.md 6, Bounds: memory comes back to rest."""
    run = subprocess.run(
        [sys.executable, "-c", _HELD], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(run.stdout) > 30_000, "of 54 MB, in KB"


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_service_manager_is_notified_of_each_state(tmp_path: Path, kind: str) -> None:
    """sd_notify(3): READY=1, MAINPID, STOPPING=1, one datagram each."""
    name = str(tmp_path / "notify") if kind == "path" else f"@jobfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(name.replace("@", "\0"))
        ear.settimeout(20)
        notify_manager(name, "READY=1", "MAINPID=7")
        notify_manager(name, "STOPPING=1")
        assert (ear.recv(1000), ear.recv(1000)) == (b"READY=1\nMAINPID=7", b"STOPPING=1")
        for number in range(20):
            notify_manager(name, str(number), patience=0.01)
    for nobody in (name, "x" * 200, None):
        notify_manager(nobody, "READY=1")
