"""Output of commands: into a file of a mount, all or nothing as an editor does it; or to standard output."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from jobfs.errors import FsError, UsageError
from jobfs.names import quote_for_shell
from jobfs.settings import shell_command

#: Bytes of the file's name in its scratch name: 255 less what surrounds them.
_SHARED = 200


def replace_file(file: Path, data: bytes, before_rename: Callable[[], object] = lambda: None) -> None:
    """Write `data` under a scratch name beside the file, rename that over the file, and return when the server has it.

    Raises UsageError for a file or a mount that can't be written, FsError for everything else. After an error the file is
    unchanged, unless only the last step failed: then it has the new bytes, which are sent later.
    """
    begun = os.fsencode(file.name)[:_SHARED].decode(errors="ignore")
    scratch = file.with_name(f".{begun}.{secrets.token_hex(4)}.swp")
    try:
        with contextlib.ExitStack() as undo:
            with scratch.open("xb") as new:
                undo.callback(_remove, scratch)
                new.write(data)
            if file.exists():
                shutil.copymode(file, scratch)
            before_rename()
            scratch.rename(file)
            undo.pop_all()
        sync_file(file)
    except OSError as error:
        raise make_write_error(file, error) from None


def print_unless_same_file(file: str, data: bytes) -> None:
    """Write to standard output. If that is the file itself, the shell has emptied it already: then raise UsageError.

    Raises BrokenPipeError, or FsError if not everything could be written.
    """
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(file), os.fstat(sys.stdout.fileno())):
            remedy = shell_command("restore", "--in-place", file)
            raise UsageError(f"the output is {file} itself, which the shell has emptied: run {remedy}")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FsError(error.errno or errno.EIO, f"can't write all of the output: {error.strerror}") from None


def sync_file(file: Path) -> None:
    """Return when the server has what was written to a file. Raises OSError."""
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_write_error(file: Path, error: OSError) -> UsageError | FsError:
    """Return the error for a command that could not write a file."""
    if error.errno == errno.EROFS:
        return UsageError(f"{file} is mounted read-only: mount the job without --read-only")
    if error.errno in (errno.EPERM, errno.EACCES):
        return make_chmod_needed_error(file)
    return FsError(error.errno or errno.EIO, f"{file}: {error.strerror}")


def make_chmod_needed_error(file: Path) -> UsageError:
    """Return the error for a command that must change a readOnly file."""
    return UsageError(f"{file} is readOnly in the job: run chmod u+w {quote_for_shell(file)} first")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
