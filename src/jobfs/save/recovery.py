"""Recovery: takes up what an earlier mount left in the journal (save/protocol.md, Recovery, has the table).

Each Change is `outcome_unknown`, since its last request may have been carried out: it looks at the server before its next step. A
Change that was STAGING or STAGED continues in replace.py (`_stage`, `_find_staged_again`), a PLACED or CANCELLED one in
cleanup.py (`clean_up`).
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
    """Show and queue what the journal holds, before the mount answers any call. Return what was found, a line each, for the log.

    Raises ApiError if the server must be asked about a directory rename and does not answer; FsError(EIO).
    """
    state = write_back.state
    files, changes = state.store.load_records()
    write_back.context.relist_after = write_back.context.late_request_deadline()
    states = {True: "needs cleanup on the server", False: "was started and not finished"}
    found = {
        names.replace_hidden_names(change.target): states[change.places_nothing_more] for change in changes
    }
    for file in files:
        _separate_closed_bytes(state, file)
    _restore_changes(write_back, changes)
    for file in files:
        _restore_file(write_back, file)
    _remove_unnamed_bytes(state, changes)
    found |= {file.path or "": "was not sent yet" for file in state.backlog().files}
    return [f"{path}: {what}" for path, what in found.items()]


def _restore_changes(write_back: WriteBack, changes: list[Change]) -> None:
    """Finish the renames of directories, whose outcome decides all paths below them; then queue the other Changes.

    Raises ApiError, FsError(EIO).
    """
    for change in changes:
        if change.verb is Verb.MOVE and change.direct:
            write_back.state.apply_in_memory(change)
            finish_directory_rename(write_back.context, change)
    for change in [change for change in changes if change.stage is not Stage.DONE]:
        _restore_change(write_back, change)


def _may_have_lost_bytes(file: File) -> bool:
    """Return whether the machine was restarted after bytes were closed, and before they were known to be on the disk."""
    return file.boot not in ("", BOOT)


def _separate_closed_bytes(state: State, file: File) -> None:
    """Separate the closed bytes of a File from unclosed bytes behind them, before a Change sends the generation."""
    if not _may_have_lost_bytes(file):
        with contextlib.suppress(
            FsError
        ):  # `_serve_or_drop_local_bytes` reports bytes that could not be separated
            state.store.separate_closed_bytes(file)


def _restore_file(write_back: WriteBack, file: File) -> None:
    """Show and queue one File; give bytes that prove nothing a name of their own. Raises FsError(EIO) if the journal fails."""
    if file.path is not None and file.open_generation:
        _recover_beside(write_back, file, "was written and never closed")
    if file.path and file.generation and not file.never_sent and _may_have_lost_bytes(file):
        _recover_doubtful_beside(write_back, file)
    if not file.recorded:
        write_back.state.drop_files(file)  # it was never closed, or was unlinked
        return
    try:
        _show_and_queue(write_back, file)
    except FsError as fault:
        # The File counts as failed. Its row stays: once the disk works again, the next mount takes it up.
        file.refused, file.refused_errno = str(fault), errno.EIO
        _detach_save(file)
        write_back.warnings.append(f"{file.path} is not taken up: {fault}")


def _detach_save(file: File) -> None:
    """Detach the save of a File, whose bytes can't be used: it continues if the server has these bytes, else it is undone."""
    change, file.change = file.change, None
    if change is not None:
        change.file = None


def _recover_doubtful_beside(write_back: WriteBack, file: File) -> None:
    """Keep closed bytes beside their File if the power failed before they were known to be on the disk. Raises FsError(EIO)."""
    if file.change is not None:
        write_back.state.apply_in_memory(file.change, generation=0)
    _detach_save(file)
    file.open_generation, file.generation, file.size, file.boot = file.generation, 0, 0, ""
    _recover_beside(write_back, file, "was closed just before the power failed")


def _recover_beside(write_back: WriteBack, file: File, reason: str) -> None:
    """Keep the open generation of a File, perhaps half of a rewrite, as a `recovered` File beside it. Raises FsError(EIO).

    The File itself is as it was last closed, or as the server has it; a File that was never closed is gone. `reason`: what
    happened to the bytes, for the warning.
    """
    state, cause = write_back.state, f"{file.path} {reason}"
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
        write_back.warnings.append(f"{cause}: {error}")
        return
    times = {"atime_ns": written, "mtime_ns": written, "ctime_ns": time.time_ns()}
    values = {"mode": file.mode, "uid": file.uid, "gid": file.gid, "never_sent": file.never_sent, **times}
    closed = {"generation": local.generation, "size": local.size, "boot": BOOT}
    state.store.forget_open_generation(file, edit(kept, **closed, **values))
    write_back.warnings.append(f"{cause}: what was written is kept as {kept.path}")
    _show_and_queue(write_back, kept)


def _show_and_queue(write_back: WriteBack, file: File) -> None:
    """Show a File, and queue its save unless that was started: then its Change is queued. Raises FsError(EIO)."""
    shown = file.path is None or _serve_or_drop_local_bytes(write_back.state, file)
    if shown and file.is_unsent and not (file.change is not None and file.change.started):
        write_back.queue.schedule(file, 0.0)


def _restore_change(write_back: WriteBack, change: Change) -> None:
    """Queue one Change for the step that its stage names; any of its requests may have gone unanswered (R7)."""
    state, file = write_back.state, change.file
    change.started = change.outcome_unknown = True
    write_back.context.mark_unanswered(change.staged_id)
    for aside in change.asides:
        aside.unsure_until = write_back.context.mark_unanswered(aside.id)
    state.apply_in_memory(change)
    if change.stage in (Stage.PLACED, Stage.CANCELLED):
        _leave_to_cleanup(state, change)
    elif change.verb is Verb.REMOVE and change.asides:
        # A directory: cleanup looks at it once its unanswered request can no longer be carried out.
        state.write(edit(change, stage=Stage.PLACED))
    elif change.verb is Verb.MKDIR and file is None:
        # The mkdir of a program never returned.
        state.write(edit(change, stage=Stage.CANCELLED))
    else:
        if change.verb is Verb.REMOVE:
            state.apply_in_memory(change, shows={change.target: None})
        elif change.verb is Verb.MOVE and file is not None:
            # A rename over unsent bytes that never returned. It replaces these bytes, and no newer ones.
            state.apply_in_memory(change, generation=file.generation)
        write_back.queue.add_change(change, 0.0)


def _leave_to_cleanup(state: State, change: Change) -> None:
    """Hand a Change to cleanup: the server has its outcome, or it was cancelled."""
    file = change.file
    change.finished_at = time.monotonic()
    state.changes.ready.append(change)
    if change.generation and (file is None or file.generation != change.generation):
        state.bytes.remove_after_sync(change.ino, change.generation)
    if change.needs_undo and change.verb is Verb.PUT:
        # Its file was unlinked: hide the name until cleanup has undone the save.
        state.apply_in_memory(change, shows={change.target: None})
    if file is not None and file.change is change:
        file.change = None


def _serve_or_drop_local_bytes(state: State, file: File) -> bool:
    """Serve a File from its local bytes; if they are not whole, drop it and return False.

    Raises FsError(EIO) if its closed bytes can't be read, or are not separated from unclosed bytes.
    """
    if file.generation:
        file.local = _open_closed_bytes(state, file)
        if file.local is None:
            log.warning("%s: its local bytes are not whole: it is dropped", file.path)
            _detach_save(file)
            state.drop_files(file)
            return False
    elif file.never_sent and file.kind is Kind.FILE and not file.link:
        state.drop_files(file)
        return False
    state.add_file(file)
    return True


def _open_closed_bytes(state: State, file: File) -> LocalGeneration | None:
    """Return the local bytes of a File, None if they are not whole. Raises FsError(EIO)."""
    # The bytes of a local only file may have been changed in place since it was closed.
    sealed = not file.never_sent or file.boot != ""
    local = state.bytes.open(file.ino, file.generation, sealed=sealed)
    if local is None or file.never_sent or local.size == file.size:
        return local
    if local.size < file.size:
        return None
    raise FsError(errno.EIO, f"unclosed bytes behind its closed bytes can't be separated: {local.path}")


def _remove_unnamed_bytes(state: State, changes: list[Change]) -> None:
    """Remove local bytes that no record names: the server has them, or their file was unlinked."""
    kept = {
        (file.ino, number)
        for file in state.index.all_files()
        for number in (file.generation, file.open_generation)
    }
    kept |= {(c.ino, c.generation) for c in changes if c.generation and c.stage is not Stage.DONE}
    state.bytes.remove_all_but({state.bytes.generation_path(ino, generation) for ino, generation in kept})
