"""`jobfs retry` and `jobfs discard`: what a user decides about saves that fail (vfs/semantics.md 4.12)."""

from __future__ import annotations

import contextlib
import errno

from jobfs import names
from jobfs.errors import FsError
from jobfs.save.writeback import WriteBack
from jobfs.state import File, edit


def retry(write_back: WriteBack, path: str | None) -> list[str]:
    """Retry at once the saves at or below `path` that were refused or have failed, and return their paths.

    None means the whole mount. Raises FsError(EIO).
    """
    found = []
    for file in write_back.state.backlog(path or "").files:
        change = file.change
        if file.refused:
            write_back.state.write(edit(file, refused="", refused_errno=0))
        elif change is None or not change.attempts:
            continue
        if change is not None and change.started:
            write_back.queue.add_change(change, 0.0)
        else:
            write_back.queue.schedule(file, 0.0)
        found.append(file.path or "")
    return found


def discard(write_back: WriteBack, path: str) -> list[tuple[str, str]]:
    """Give up what is unsent at or below `path`; return each path, and where a copy of its bytes is kept ("" if there is none).

    Raises FsError(ENOENT) if nothing is unsent there, FsError(EBUSY) if a file is open in a program or is being sent.
    """
    # The entries of a directory come before the directory.
    found = sorted(write_back.state.backlog(path).files, key=lambda file: file.path or "", reverse=True)
    if not found:
        raise FsError(errno.ENOENT, f"nothing is unsent at {path or 'this mount'}")
    if opened := next((file.path for file in found if file.handles), None):
        raise FsError(errno.EBUSY, f"{opened} is open in a program: close it first")
    return [(file.path or "", _discard_file(write_back, file, file.path or "")) for file in found]


def _discard_file(write_back: WriteBack, file: File, target: str) -> str:
    """Give up a File with its record, bytes and save; return the path of a copy of the bytes, "" if there is none.

    Raises as `discard`.
    """
    with write_back.state.reservations.hold(target):
        if not (file.is_unsent or file in write_back.state.unclosed):
            raise FsError(errno.ENOENT, f"{target} has just been sent: nothing is left to discard")
        local, change = file.local, file.change
        with contextlib.suppress(FsError):  # unreadable bytes are given up without a copy
            local = local or write_back.state.bytes.open(file.ino, file.generation)
        kept = (
            "" if local is None else str(write_back.state.bytes.keep_in_trash(local, names.basename(target)))
        )
        if change is not None and (
            change.is_running or (change.started and not write_back.try_withdraw_save(file))
        ):
            raise FsError(errno.EBUSY, f"{target} is being sent: try again in a moment")
        with file.lock, write_back.state.lock:
            write_back.state.unlink_file(file)
        write_back.namespace.invalidate(target)
    return kept
