"""Which API key is used, and what is said about how it is kept (semantics.md section 6)."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jobfs.api import FileKey, KeySource, fixed_key
from jobfs.errors import UsageError

if TYPE_CHECKING:
    from jobfs.settings import Settings

_PR_SET_DUMPABLE = 4


def find_key(settings: Settings, warn: Callable[[str], None]) -> KeySource:
    """The key in `api_key_file`, else in PERSTACK_API_KEY; read once, so that a bad one is UsageError now.

    Who holds it leaves no core dump from here on, unless `allow_core_dumps`.
    """
    if not settings.allow_core_dumps:
        _leave_no_core_dump()
    if settings.api_key_file is None:
        key = os.environ.get("PERSTACK_API_KEY", "")
        if not key.strip():
            raise UsageError("there is no API key: set PERSTACK_API_KEY, or give --api-key-file FILE")
        return fixed_key(key)
    _check_file(settings.api_key_file, warn)
    source = FileKey(settings.api_key_file)
    source()
    return source


def _leave_no_core_dump() -> None:
    """The kernel writes no core of this process, hands none to a program, and lets no debugger of the same user attach.

    It also gives /proc/PID of this process to root: other programs of the user no longer read its environment there.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _check_file(path: Path, warn: Callable[[str], None]) -> None:
    try:
        info = path.stat()
    except FileNotFoundError:
        # Without the name: someone may have given the key where its file was asked for.
        raise UsageError("the file given as --api-key-file does not exist") from None
    except OSError as error:
        raise UsageError(f"can't read the API key from {path}: {error.strerror}") from None
    if not path.is_file():
        raise UsageError(f"can't read the API key from {path}: it is not a file")
    # What ssh asks of a private key, and only of the user's own: others are an administrator's affair.
    if info.st_uid == os.geteuid() and info.st_mode & 0o077:
        warn(f"others can read the API key in {path}: chmod 600 {path}")
