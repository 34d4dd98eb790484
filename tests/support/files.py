"""Small operations of tests on files, and the errno with which a call fails."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobfs.errors import JobfsError


def save_file(path: Path, content: bytes) -> None:
    """Save as an editor does: open, write, fsync, close."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def on_disk(root: Path) -> dict[str, bytes | None]:
    """Return a local directory in the form in which `serverside.visible` returns the server's tree, without symbolic links."""
    found: dict[str, bytes | None] = {}
    with _readable(root, 0o500):
        for path in sorted(root.iterdir()):
            if path.is_symlink():
                continue
            if path.is_dir():
                found |= {path.name: None} | {
                    f"{path.name}/{name}": data for name, data in on_disk(path).items()
                }
            else:
                with _readable(path, 0o400):
                    found[path.name] = path.read_bytes()
    return found


@contextmanager
def _readable(path: Path, bits: int) -> Iterator[None]:
    """Give the owner these permission bits, which reading needs; restore the mode afterwards."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits == bits:
        yield
        return
    path.chmod(mode | bits)
    try:
        yield
    finally:
        path.chmod(mode)


def errno_from(call: Callable[..., Any], *arguments: Any, **more: Any) -> int:
    """Return the errno with which a system call or an operation of the Vfs fails; 0 if it succeeds."""
    try:
        call(*arguments, **more)
    except (OSError, JobfsError) as error:
        return error.errno or -1
    return 0


def open_below(directory: Path) -> int:
    """Return how many open files of this process are in a directory."""
    return sum(os.path.realpath(fd).startswith(f"{directory}/") for fd in Path("/proc/self/fd").iterdir())
