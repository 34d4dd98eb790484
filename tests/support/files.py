"""Small things that tests do to files, and what a call fails with."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobfs.errors import JobfsError


def saved(path: Path, content: bytes) -> None:
    """Writes as an editor saves: open, write, fsync, close."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def on_disk(root: Path) -> dict[str, bytes | None]:
    """The same picture of a local directory as `serverside.visible` gives of the server: no symbolic links."""
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
    """Give the owner these rights, without which they could not read it; its mode is put back."""
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
    """The errno with which a system call or an operation of the Vfs fails; 0 if it does not."""
    try:
        call(*arguments, **more)
    except (OSError, JobfsError) as error:
        return error.errno or -1
    return 0
