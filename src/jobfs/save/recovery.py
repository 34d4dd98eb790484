"""Taking up what an earlier mount left in the journal (save-protocol.md, Recovery).

Nothing is assumed of the last request: each Change looks at the server before its next step. Until it ends, its file is served
from the local bytes.
"""

from __future__ import annotations

import logging
import time

from jobfs.nodes import Kind
from jobfs.save.rename import settle_directory
from jobfs.save.writeback import WriteBack
from jobfs.state import Change, File, State, edit
from jobfs.state.disk import BOOT
from jobfs.state.records import Stage, Verb
from jobfs.state.tables import is_unmade

log = logging.getLogger("jobfs.save")


def restore(write_back: WriteBack) -> list[str]:
    """Show and queue what the journal holds, before the mount answers. Returns what was found, a line each, for the log.

    Raises ApiError if the server has to be asked and can't be.
    """
    state, context = write_back.state, write_back.context
    files, changes = state.load()
    found = [f"{change.target}: {change.verb} that was {change.stage}" for change in changes]
    for change in changes:
        if change.verb is Verb.MOVE and change.direct:
            state.apply(change)
            settle_directory(context, change)
    for change in changes:
        if change.stage is not Stage.DONE:
            _restore(write_back, change)
    for file in files:
        if file.path is not None and not _show(state, file):
            found.append(f"{file.path}: its local bytes are not whole, it is dropped")
        elif (file.unsaved or is_unmade(file)) and (file.change is None or not file.change.begun):
            found.append(f"{file.path}: not sent")
            write_back.queue.save(file, 0.0)
    for path in state.bytes.sweep(_named(state, changes)):
        log.warning("local bytes that were never closed are kept as %s until the next clean unmount", path)
    return found


def _restore(write_back: WriteBack, change: Change) -> None:
    state, context, file = write_back.state, write_back.context, change.file
    change.begun = change.unsure = change.resent = True
    for aside in change.asides:
        # After a restart any request on an aside may have gone unanswered (R7).
        aside.unsure_until = time.time() + context.lifetime
        if aside.id:
            context.unanswered.note(aside.id)
    if change.staged_id:
        context.unanswered.note(change.staged_id)
    state.apply(change)
    if change.stage in (Stage.PLACED, Stage.CANCELLED):
        change.since = time.monotonic()
        state.to_clean.append(change)
        if change.generation and (file is None or file.generation != change.generation):
            # Nobody needs these bytes any more; the mount before did not come to removing them.
            state.bytes.retire(change.ino, change.generation)
        if change.stage is Stage.CANCELLED and change.verb is Verb.PUT and change.tid:
            # Unlinked: not shown again until it is off the server.
            state.apply(change, shows={change.target: None})
        if file is not None and file.change is change:
            file.change = None
        return
    if change.verb is Verb.REMOVE:
        # A directory on its way out: looked at once no unanswered request of it can still be carried out.
        if change.asides:
            state.write(edit(change, stage=Stage.PLACED))
        elif change.base.id:
            _unlink(write_back, change)
        else:
            state.end(change)
        return
    if change.verb is Verb.MKDIR and file is None:
        # Nobody was told that it is there.
        state.write(edit(change, stage=Stage.CANCELLED))
        return
    if change.verb is Verb.MOVE and file is not None:
        # A backup: `generation` is what the item holds; what was written to it since stays here.
        state.apply(change, shows={change.source: None})
    write_back.queue.add(change, 0.0)


def _unlink(write_back: WriteBack, change: Change) -> None:
    """A file that was open was being unlinked: no handle is left, and it is not shown again."""
    if change.file is not None:
        write_back.state.drop(change.file)
        change.file.path = change.file.change = None
        change.file = None
    write_back.state.apply(change, shows={change.target: None})
    write_back.queue.add(change, 0.0)


def _show(state: State, file: File) -> bool:
    """Serve a File from its local bytes; False if they are not whole: it was never acknowledged, and is dropped."""
    if file.generation:
        local = state.bytes.open(file.ino, file.generation, sealed=not file.stays or file.boot != "")
        if local is None or (local.size != file.size and not file.stays):
            log.warning("%s: its local bytes are not whole", file.path)
            if file.change is not None:
                # What was begun goes on if the server has the bytes, else it is undone.
                file.change.file = None
            state.drop(file)
            return False
        if file.stays or file.boot in ("", BOOT):
            file.local = local
    elif file.stays and file.kind is Kind.FILE and not file.link:
        state.drop(file)
        return False
    state.add(file)
    return True


def _named(state: State, changes: list[Change]) -> set[str]:
    """The names of the local bytes that records name."""
    kept = {(file.ino, file.generation) for file in state.files() if file.generation}
    kept |= {(c.ino, c.generation) for c in changes if c.generation and c.stage not in (Stage.DONE,)}
    return {state.bytes.path(ino, generation).name for ino, generation in kept}
