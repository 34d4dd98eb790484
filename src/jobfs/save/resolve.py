"""What a person decides about saves that do not get through: try again, or give them up (vfs/semantics.md 4)."""

from __future__ import annotations

import contextlib
import errno

from jobfs import names
from jobfs.api import deadline
from jobfs.errors import FsError
from jobfs.save.writeback import WriteBack
from jobfs.state import Change, File, edit


def retry(write_back: WriteBack, path: str | None) -> list[str]:
    """Try at once what was refused, or waits for its next try, at or below `path`; returns the paths."""
    found = []
    for file in write_back.state.left(path or "").files:
        change = file.change
        if not file.refused and (change is None or not change.attempts):
            continue
        if file.refused:
            write_back.state.write(edit(file, refused="", refused_errno=0))
        if change is not None and change.begun:
            write_back.queue.add(change, 0.0)
        else:
            write_back.queue.save(file, 0.0)
        found.append(file.path or "")
    return found


def discard(write_back: WriteBack, path: str) -> list[tuple[str, str]]:
    """Give up what is unsent at or below `path`; returns each path and where a copy of its bytes is kept.

    The server's version is shown again. Raises FsError(ENOENT) if nothing is unsent there, FsError(EBUSY) if a program has the
    file open or it is just being sent, ApiError if what was begun on the server can't be taken back now.
    """
    found = write_back.state.left(path).files
    if not found:
        raise FsError(errno.ENOENT, f"nothing is unsent at {path or 'this mount'}")
    for file in found:
        _check_closed(file)
    # What is in a directory goes before it.
    found.sort(key=lambda file: (file.unmade, -(file.path or "").count("/")))
    targets = [(file, file.path or "") for file in found]
    return [(target, _give_up(write_back, file, target)) for file, target in targets]


def _check_closed(file: File) -> None:
    if file.handles:
        raise FsError(errno.EBUSY, f"{file.path} is open in a program: close it first")


def _give_up(write_back: WriteBack, file: File, target: str) -> str:
    """Take back what was begun on the server, then let go of record and bytes."""
    state = write_back.state
    with state.reservations.held(target):
        with state.lock:
            while file.change is not None and file.change.running:
                deadline.wait(state.lock, f"{target} is being saved")
        if not (file.unsent or file in state.unclosed):
            raise FsError(errno.ENOENT, f"{target} was just sent")
        _check_closed(file)
        local = file.local
        with contextlib.suppress(FsError):  # what can't be read is given up without a copy
            local = local or state.bytes.open(file.ino, file.generation)
        kept = str(state.bytes.throw_away(local, names.basename(target))) if local is not None else ""
        change = file.change
        if change is not None and change.begun:
            _take_back(write_back, change)
        with file.lock, state.lock:
            state.unname(file)
        write_back.namespace.touch(target)
    return kept


def _take_back(write_back: WriteBack, change: Change) -> None:
    """The server looks as if this save had not been begun. Raises ApiError, FsError(EBUSY)."""
    cleanup, upload = write_back.cleanup, write_back.upload
    if change.tid and not change.staged_id:
        staged = upload.find(change)
        change.staged_id = staged.id if staged is not None else ""
    sent = change.direct and upload.find_direct(change) is not None
    if sent or (change.staged_id and cleanup.is_placed(change)):
        raise FsError(errno.EBUSY, f"{change.target} is just being sent: look again in a moment")
    cleanup.undo(change, "given up", errno.ECANCELED)
    for taken in change.taken:
        write_back.namespace.touch(taken.path)
