"""Small things that tests do to files, and what a call fails with."""

from __future__ import annotations

import os
from collections.abc import Callable
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
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if not path.is_symlink()
    }


def errno_from(call: Callable[..., Any], *arguments: Any, **more: Any) -> int:
    """The errno with which a system call or an operation of the Vfs fails; 0 if it does not."""
    try:
        call(*arguments, **more)
    except (OSError, JobfsError) as error:
        return error.errno or -1
    return 0
