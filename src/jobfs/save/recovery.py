"""Taking up what an earlier mount left in the journal (save/protocol.md, Recovery, has the table).

Nothing is assumed of the last request: each Change is `outcome_unknown`, and looks at the server before its next step. A Change
that was STAGING or STAGED goes on in replace.py (`_stage`, `_find_staged_again`), one that was PLACED or CANCELLED in cleanup.py
(`clean_up`).
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
from jobfs.save.rename import finish_directory_rename
from jobfs.save.writeback import WriteBack
from jobfs.state import Change, File, State, edit
from jobfs.state.localbytes import BOOT, LocalGeneration
from jobfs.state.records import Stage, Verb

log = logging.getLogger("jobfs.save")


def restore_journal(write_back: WriteBack) -> list[str]:
    """Show and queue what the journal holds, before the mount answers. Returns what was found, a line each, for the log.

    Raises ApiError if the server has to be asked and can't be.
    """
    state = write_back.state
    files, changes = state.store.load_records()
    write_back.context.look_again = write_back.context.late_request_deadline()
    told = {True: "to be tidied up on the server", False: "begun, and not finished"}
    found = {names.replace_hidden_names(change.target): told[change.is_finished] for change in changes}
    for file in files:
        _separate_closed_bytes(state, file)
    _restore_changes(write_back, changes)
    for file in files:
        _restore_file(write_back, file)
    _remove_unnamed_bytes(state, changes)
    found |= {file.path or "": "was not sent yet" for file in state.backlog().files}
    return [f"{path}: {what}" for path, what in found.items()]


def _restore_changes(write_back: WriteBack, changes: list[Change]) -> None:
    """Queue the Changes, once the names are known that renamed directories have. Raises ApiError, FsError(EIO)."""
    for change in changes:
        if change.verb is Verb.MOVE and change.direct:
            write_back.state.apply_in_memory(change)
            finish_directory_rename(write_back.context, change)
    for change in [change for change in changes if change.stage is not Stage.DONE]:
        _restore_change(write_back, change)


def _may_have_lost_bytes(file: File) -> bool:
    """True if the power went after bytes were closed, and before they were seen on the disk."""
    return file.boot not in ("", BOOT)


def _separate_closed_bytes(state: State, file: File) -> None:
    """Tell the closed bytes of a File from those behind them, before a Change takes them for its own."""
    if not _may_have_lost_bytes(file):
        with contextlib.suppress(FsError):  # `_serve_local_bytes` finds that it was not done
            state.store.separate_closed_bytes(file)


def _restore_file(write_back: WriteBack, file: File) -> None:
    """Show and queue one File, under the names that its bytes get. Raises FsError(EIO) if the journal fails."""
    if file.path is not None and file.open_generation:
        _recover_beside(write_back, file, "was written and never closed")
    if file.path and file.generation and not file.never_sent and _may_have_lost_bytes(file):
        _rename_doubtful_bytes(write_back, file)
    if not file.recorded:
        write_back.state.drop_files(file)  # it was never closed, or was unlinked
        return
    try:
        _show_and_queue(write_back, file)
    except FsError as fault:
        # It has failed. Its row stays: once the disk is mended, the next mount takes it up.
        file.refused, file.refused_errno = str(fault), errno.EIO
        _detach_save(file)
        write_back.warnings.append(f"{file.path} is not taken up: {fault}")


def _detach_save(file: File) -> None:
    """A save of these bytes that was begun goes on if the server has them, else it is undone."""
    change, file.change = file.change, None
    if change is not None:
        change.file = None


def _rename_doubtful_bytes(write_back: WriteBack, file: File) -> None:
    """Power was lost before closed bytes were known to be on the disk: they get another name. Raises FsError(EIO)."""
    if file.change is not None:
        write_back.state.apply_in_memory(file.change, generation=0)
    _detach_save(file)
    file.open_generation, file.generation, file.size, file.boot = file.generation, 0, 0, ""
    _recover_beside(write_back, file, "was closed just before the power went")


def _recover_beside(write_back: WriteBack, file: File, why: str) -> None:
    """Bytes that may be half of a rewrite become another File beside theirs. Raises FsError(EIO).

    The File itself is as it was closed, or as the server has it; a new one is gone.
    """
    state, told = write_back.state, f"{file.path} {why}"
    taken = {other.path for other in state.index.all_files()}
    tried = (
        names.second_version_path(file.path or "", "recovered", attempt=number)
        for number in itertools.count()
    )
    kept = state.new_local_file(Kind.FILE, next(name for name in tried if name not in taken))
    try:
        local = state.bytes.open(file.ino, file.open_generation)
        if local is None or not local.size:
            state.store.forget_open_generation(file)
            return
        kept.local = local = state.bytes.link_to_file(file.ino, file.open_generation, kept.ino)
        written = local.path.stat().st_mtime_ns
    except (OSError, FsError) as error:
        write_back.warnings.append(f"{told}: {error}")
        return
    times = {"atime_ns": written, "mtime_ns": written, "ctime_ns": time.time_ns()}
    values = {"mode": file.mode, "uid": file.uid, "gid": file.gid, "never_sent": file.never_sent, **times}
    closed = {"generation": local.generation, "size": local.size, "boot": BOOT}
    state.store.forget_open_generation(file, edit(kept, **closed, **values))
    write_back.warnings.append(f"{told}: what was written is kept as {kept.path}")
    _show_and_queue(write_back, kept)


def _show_and_queue(write_back: WriteBack, file: File) -> None:
    """Show a File, and queue it unless a Change that sends it was begun."""
    shown = file.path is None or _serve_local_bytes(write_back.state, file)
    if shown and file.is_unsent and not (file.change is not None and file.change.started):
        write_back.queue.schedule(file, 0.0)


def _restore_change(write_back: WriteBack, change: Change) -> None:
    """Queue one Change, for the step that its stage names; any request of it may have gone unanswered (R7)."""
    state, file = write_back.state, change.file
    change.started = change.outcome_unknown = True
    write_back.context.mark_unanswered(change.staged_id)
    for aside in change.asides:
        aside.unsure_until = write_back.context.mark_unanswered(aside.id)
    state.apply_in_memory(change)
    if change.stage in (Stage.PLACED, Stage.CANCELLED):
        _leave_to_cleanup(state, change)
    elif change.verb is Verb.REMOVE and change.asides:
        # A directory: cleanup looks at it once no unanswered request can be carried out any more.
        state.write(edit(change, stage=Stage.PLACED))
    elif change.verb is Verb.MKDIR and file is None:
        # No caller was told that the directory is there.
        state.write(edit(change, stage=Stage.CANCELLED))
    else:
        if change.verb is Verb.REMOVE:
            state.apply_in_memory(change, shows={change.target: None})
        elif change.verb is Verb.MOVE and file is not None:
            # A rename over unsent bytes; no caller was told that it is done. It replaces these bytes, and no newer ones.
            state.apply_in_memory(change, generation=file.generation)
        write_back.queue.add_change(change, 0.0)


def _leave_to_cleanup(state: State, change: Change) -> None:
    """The server has the outcome, or it was given up: only cleanup is left."""
    file = change.file
    change.finished_at = time.monotonic()
    state.changes.ready.append(change)
    if change.generation and (file is None or file.generation != change.generation):
        state.bytes.remove_after_sync(change.ino, change.generation)
    if change.needs_undo and change.verb is Verb.PUT:
        # Unlinked: not shown again until it is off the server.
        state.apply_in_memory(change, shows={change.target: None})
    if file is not None and file.change is change:
        file.change = None


def _serve_local_bytes(state: State, file: File) -> bool:
    """Serve a File from its local bytes; False if they are not whole: it was never acknowledged, and is dropped.

    Raises FsError(EIO) if its closed bytes can't be read, or told from others.
    """
    if file.generation:
        file.local = _closed_bytes(state, file)
        if file.local is None:
            log.warning("%s: its local bytes are not whole, it is dropped", file.path)
            _detach_save(file)
            state.drop_files(file)
            return False
    elif file.never_sent and file.kind is Kind.FILE and not file.link:
        state.drop_files(file)
        return False
    state.add_file(file)
    return True


def _closed_bytes(state: State, file: File) -> LocalGeneration | None:
    """The local bytes of a File, None if they are not whole. Raises FsError(EIO)."""
    # A file that stays here may have been written to since it was closed.
    sealed = not file.never_sent or file.boot != ""
    local = state.bytes.open(file.ino, file.generation, sealed=sealed)
    if local is None or file.never_sent or local.size == file.size:
        return local
    if local.size < file.size:
        return None
    raise FsError(errno.EIO, f"what was written behind its closed bytes can't be set apart: {local.path}")


def _remove_unnamed_bytes(state: State, changes: list[Change]) -> None:
    """Remove local bytes that no record names: they are on the server, or were unlinked."""
    kept = {
        (file.ino, number)
        for file in state.index.all_files()
        for number in (file.generation, file.open_generation)
    }
    kept |= {(c.ino, c.generation) for c in changes if c.generation and c.stage is not Stage.DONE}
    state.bytes.remove_all_but({state.bytes.generation_path(ino, generation) for ino, generation in kept})
