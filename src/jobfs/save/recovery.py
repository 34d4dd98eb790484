"""Taking up what an earlier mount left in the journal (save/protocol.md, Recovery, has the table).

Nothing is assumed of the last request: each Change is `unsure`, and looks at the server before its next step. A Change that was
STAGING or STAGED goes on in replace.py (`_stage`, `_look_at_staged`), one that was PLACED or CANCELLED in cleanup.py (`finish`).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import time

from jobfs import names
from jobfs.errors import FsError
from jobfs.nodes import Kind
from jobfs.save.rename import find_renamed
from jobfs.save.writeback import WriteBack
from jobfs.state import Change, File, State, edit
from jobfs.state.localbytes import BOOT, Local
from jobfs.state.records import Stage, Verb

log = logging.getLogger("jobfs.save")


def restore(write_back: WriteBack) -> list[str]:
    """Show and queue what the journal holds, before the mount answers. Returns what was found, a line each, for the log.

    Raises ApiError if the server has to be asked and can't be.
    """
    state = write_back.state
    files, changes = state.store.load()
    write_back.context.look_again = write_back.context.may_come_until()
    told = {True: "to be tidied up on the server", False: "begun, and not finished"}
    found = {names.plain(change.target): told[change.over] for change in changes}
    for file in files:
        _set_apart(state, file)
    _restore_changes(write_back, changes)
    for file in files:
        _restore_file(write_back, file)
    _sweep(state, changes)
    found |= {file.path or "": "was not sent yet" for file in state.left().files}
    return [f"{path}: {what}" for path, what in found.items()]


def _restore_changes(write_back: WriteBack, changes: list[Change]) -> None:
    """Queue the Changes, once the names are known that renamed directories have. Raises ApiError, FsError(EIO)."""
    for change in changes:
        if change.verb is Verb.MOVE and change.direct:
            write_back.state.apply(change)
            find_renamed(write_back.context, change)
    for change in [change for change in changes if change.stage is not Stage.DONE]:
        _restore(write_back, change)


def _is_in_doubt(file: File) -> bool:
    """True if the power went after bytes were closed, and before they were seen on the disk."""
    return file.boot not in ("", BOOT)


def _set_apart(state: State, file: File) -> None:
    """Tell the closed bytes of a File from those behind them, before a Change takes them for its own."""
    if not _is_in_doubt(file):
        with contextlib.suppress(FsError):  # `_show` finds that it was not done
            state.store.set_apart(file)


def _restore_file(write_back: WriteBack, file: File) -> None:
    """Show and queue one File, under the names that its bytes get. Raises FsError(EIO) if the journal fails."""
    if file.path is not None and file.draft:
        _bring_back(write_back, file, "was written and never closed")
    if file.path and file.generation and not file.stays and _is_in_doubt(file):
        _doubt(write_back, file)
    if not file.recorded:
        write_back.state.drop(file)  # it was never closed, or was unlinked
        return
    try:
        _take_up(write_back, file)
    except FsError as fault:
        # It has failed. Its row stays: once the disk is mended, the next mount takes it up.
        file.refused, file.refused_errno = str(fault), errno.EIO
        _let_go(file)
        write_back.warnings.append(f"{file.path} is not taken up: {fault}")


def _let_go(file: File) -> None:
    """A save of these bytes that was begun goes on if the server has them, else it is undone."""
    change, file.change = file.change, None
    if change is not None:
        change.file = None


def _doubt(write_back: WriteBack, file: File) -> None:
    """Power was lost before closed bytes were known to be on the disk: they get another name. Raises FsError(EIO)."""
    if file.change is not None:
        write_back.state.apply(file.change, generation=0)
    _let_go(file)
    file.draft, file.generation, file.size, file.boot = file.generation, 0, 0, ""
    _bring_back(write_back, file, "was closed just before the power went")


def _bring_back(write_back: WriteBack, file: File, why: str) -> None:
    """Bytes that may be half of a rewrite become another File beside theirs. Raises FsError(EIO).

    The File itself is as it was closed, or as the server has it; a new one is gone.
    """
    state, told = write_back.state, f"{file.path} {why}"
    taken = {other.path for other in state.index.files()}
    tried = (names.beside(file.path or "", "recovered", attempt=number) for number in itertools.count())
    kept = state.new(Kind.FILE, next(name for name in tried if name not in taken))
    try:
        local = state.bytes.open(file.ino, file.draft)
        if local is None or not local.size:
            state.store.end_draft(file)
            return
        kept.local = local = state.bytes.give(file.ino, file.draft, kept.ino)
        written = local.path.stat().st_mtime_ns
    except (OSError, FsError) as error:
        write_back.warnings.append(f"{told}: {error}")
        return
    times = {"atime_ns": written, "mtime_ns": written, "ctime_ns": time.time_ns()}
    values = {"mode": file.mode, "uid": file.uid, "gid": file.gid, "stays": file.stays, **times}
    closed = {"generation": local.generation, "size": local.size, "boot": BOOT}
    state.store.end_draft(file, edit(kept, **closed, **values))
    write_back.warnings.append(f"{told}: what was written is kept as {kept.path}")
    _take_up(write_back, kept)


def _take_up(write_back: WriteBack, file: File) -> None:
    """Show a File, and queue it unless a Change that sends it was begun."""
    shown = file.path is None or _show(write_back.state, file)
    if shown and file.unsent and not (file.change is not None and file.change.begun):
        write_back.queue.save(file, 0.0)


def _restore(write_back: WriteBack, change: Change) -> None:
    """Queue one Change, for the step that its stage names; any request of it may have gone unanswered (R7)."""
    state, file = write_back.state, change.file
    change.begun = change.unsure = True
    write_back.context.unanswered(change.staged_id)
    for aside in change.asides:
        aside.unsure_until = write_back.context.unanswered(aside.id)
    state.apply(change)
    if change.stage in (Stage.PLACED, Stage.CANCELLED):
        _clean_up(state, change)
    elif change.verb is Verb.REMOVE and change.asides:
        # A directory: cleanup looks at it once no unanswered request can be carried out any more.
        state.write(edit(change, stage=Stage.PLACED))
    elif change.verb is Verb.MKDIR and file is None:
        # No caller was told that the directory is there.
        state.write(edit(change, stage=Stage.CANCELLED))
    else:
        if change.verb is Verb.REMOVE:
            state.apply(change, shows={change.target: None})
        elif change.verb is Verb.MOVE and file is not None:
            # A rename over unsent bytes; no caller was told that it is done. It replaces these bytes, and no newer ones.
            state.apply(change, generation=file.generation)
        write_back.queue.add(change, 0.0)


def _clean_up(state: State, change: Change) -> None:
    """The server has the outcome, or it was given up: only cleanup is left."""
    file = change.file
    change.since = time.monotonic()
    state.changes.awake.append(change)
    if change.generation and (file is None or file.generation != change.generation):
        state.bytes.retire(change.ino, change.generation)
    if change.unfinished and change.verb is Verb.PUT:
        # Unlinked: not shown again until it is off the server.
        state.apply(change, shows={change.target: None})
    if file is not None and file.change is change:
        file.change = None


def _show(state: State, file: File) -> bool:
    """Serve a File from its local bytes; False if they are not whole: it was never acknowledged, and is dropped.

    Raises FsError(EIO) if its closed bytes can't be read, or told from others.
    """
    if file.generation:
        file.local = _closed_bytes(state, file)
        if file.local is None:
            log.warning("%s: its local bytes are not whole, it is dropped", file.path)
            _let_go(file)
            state.drop(file)
            return False
    elif file.stays and file.kind is Kind.FILE and not file.link:
        state.drop(file)
        return False
    state.add(file)
    return True


def _closed_bytes(state: State, file: File) -> Local | None:
    """The local bytes of a File, None if they are not whole. Raises FsError(EIO)."""
    # A file that stays here may have been written to since it was closed.
    sealed = not file.stays or file.boot != ""
    local = state.bytes.open(file.ino, file.generation, sealed=sealed)
    if local is None or file.stays or local.size == file.size:
        return local
    if local.size < file.size:
        return None
    raise FsError(errno.EIO, f"what was written behind its closed bytes can't be set apart: {local.path}")


def _sweep(state: State, changes: list[Change]) -> None:
    """Remove local bytes that no record names: they are on the server, or were unlinked."""
    kept = {(file.ino, number) for file in state.index.files() for number in (file.generation, file.draft)}
    kept |= {(c.ino, c.generation) for c in changes if c.generation and c.stage is not Stage.DONE}
    state.bytes.keep_only({state.bytes.path(ino, generation) for ino, generation in kept})
