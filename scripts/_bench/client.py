"""The client of a mount, a process of its own: loops that time single system calls, in Python to be portable.

python -m _bench.client save|replace|new DIR SOURCE      save each file of SOURCE in DIR; print the seconds of each, as JSON
python -m _bench.client getattr|open DIR TURNS           print "ready", wait for a line, run, print the seconds
python -m _bench.client absent DIR COUNT                 stat names that do not exist; print how many were not found
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

_AT_EMPTY_PATH, _AT_STATX_FORCE_SYNC, _STATX_BASIC = 0x1000, 0x2000, 0x7FF


def _write(path: str, content: bytes, flags: int) -> None:
    handle = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        os.write(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)


def _save(path: str, content: bytes) -> None:
    _write(path, content, os.O_TRUNC)


def _replace(path: str, content: bytes) -> None:
    _write(path + ".new", content, os.O_CREAT | os.O_EXCL)
    os.rename(path + ".new", path)


def _new(path: str, content: bytes) -> None:
    _write(path, content, os.O_CREAT | os.O_EXCL)


def saves(how: str, directory: str, source: str) -> None:
    """Save one file after another, as an editor does."""
    save = {"save": _save, "replace": _replace, "new": _new}[how]
    seconds = []
    for place in sorted(Path(source).iterdir()):
        content = place.read_bytes()
        began = time.perf_counter()
        save(os.path.join(directory, place.name), content)
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds), flush=True)


def _paths(directory: str) -> list[str]:
    return sorted(str(Path(above, name)) for above, _, names in os.walk(directory) for name in names)


def _getattr_loop(paths: list[str], turns: int) -> Callable[[], None]:
    """Return a loop in which each call is one getattr request: the kernel can't answer from its cache, and looks up no name."""
    statx = ctypes.CDLL(None, use_errno=True).statx
    handles = [os.open(path, os.O_PATH) for path in paths]
    buffer = ctypes.create_string_buffer(256)
    flags = _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC

    def work() -> None:
        for turn in range(turns):
            if statx(handles[turn % len(handles)], b"", flags, _STATX_BASIC, buffer):
                raise OSError(ctypes.get_errno(), "statx")

    return work


def _open_loop(paths: list[str], turns: int) -> Callable[[], None]:
    def work() -> None:
        for turn in range(turns):
            handle = os.open(paths[turn % len(paths)], os.O_RDONLY)
            if not os.read(handle, 16384):
                raise OSError(errno.EIO, "empty")
            os.close(handle)

    return work


def loop(how: str, directory: str, turns: int) -> None:
    """Make the same call on all files, many times; the first round, before "ready", warms all caches."""
    paths = _paths(directory)
    _open_loop(paths, len(paths))()
    work = (_getattr_loop if how == "getattr" else _open_loop)(paths, turns)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    work()
    print(time.perf_counter() - began, flush=True)


def absent(directory: str, count: int) -> None:
    """Look up names that do not exist, in the root and in its directories."""
    places = [directory, *(entry.path for entry in os.scandir(directory) if entry.is_dir())]
    missing = 0
    for number in range(count):
        try:
            os.stat(os.path.join(places[number % len(places)], f"no-such-{number}.h"))
        except FileNotFoundError:
            missing += 1
    print(missing, flush=True)


if __name__ == "__main__":
    name, where, last = sys.argv[1:]
    if name in ("save", "replace", "new"):
        saves(name, where, last)
    elif name == "absent":
        absent(where, int(last))
    else:
        loop(name, where, int(last))
