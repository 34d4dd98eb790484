"""How a Change ends: placed, in one step that everything here learns at once; or undone, and what was set aside goes back.

See save-protocol.md, The steps; R2, R3, R11.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from jobfs import names
from jobfs.api import Client
from jobfs.errors import NotFoundError, UnavailableError
from jobfs.nodes import Item
from jobfs.save.bases import Bases
from jobfs.save.cleanup import ConflictCheck
from jobfs.save.context import Context
from jobfs.state import Change, File, State, edit
from jobfs.state.records import Aside, Base, Stage, Verb
from jobfs.state.tables import Edit

log = logging.getLogger("jobfs.save")

#: Of a File without bytes that the server does not have.
_NOTHING: dict[str, Any] = {"generation": 0, "size": 0, "boot": ""}


class Cancelled(Exception):  # noqa: N818 - a signal between steps, not an error
    """The file was unlinked while its save was under way (R10)."""


def check(change: Change) -> None:
    """Raises Cancelled if the change is not to go on."""
    if change.stage in (Stage.CANCELLED, Stage.DONE):
        raise Cancelled


@contextlib.contextmanager
def going_on(state: State, change: Change) -> Iterator[None]:
    """Under the lock of its File and that of the state, for a step of a change that goes on. Raises Cancelled."""
    with change.file.lock if change.file is not None else contextlib.nullcontext(), state.lock:
        check(change)
        yield


# -- placed


def placed(context: Context, bases: Bases, change: Change, item: Item, *, adopted: bool) -> None:
    """One step: the journal, the File, the namespace and the content cache know the outcome. Raises Cancelled, FsError(EIO).

    `adopted`: `item` is the move's own answer, or the create's (R2).
    """
    before, change.item = change.item, item
    if change.file is not None and change.verb is Verb.PUT:
        _saved(context, change, change.file, item, adopted=adopted)
        return
    _moved(context, change, item, adopted=adopted)
    if before is not None and adopted:
        bases.carry(before, item)


def _saved(context: Context, change: Change, file: File, item: Item, *, adopted: bool) -> None:
    """Local bytes are on the server: they are the base of the next save."""
    state, content = context.state, context.content
    source = state.bytes.path(file.ino, change.generation)
    # What has to be copied is copied before the locks are taken: readers wait for them.
    with content.near(source) if adopted else contextlib.nullcontext() as saved, going_on(state, change):
        state.write(
            edit(change, stage=Stage.PLACED, staged_id=item.id),
            edit(
                file,
                item_id=item.id,
                base=Base(
                    item.id, item.updated_at if adopted else "", change.size, change.sha256, young=True
                ),
                version=item.updated_at,
                sha256=change.sha256 if adopted else "",
                sent=change.sha256,
                permission=item.permission,
                wish=None if file.wish is item.permission else file.wish,
                refused="",
                **(_NOTHING if file.generation == change.generation else {}),
            ),
        )
        file.item, file.change = item, None
        _tell(context, change, item)
        if file.local is not None and file.local.generation == change.generation:
            _go_on(context, file, item, adopted=adopted)
        state.bytes.retire(file.ino, change.generation)
        if saved is not None:
            # After the handles have opened the version: even one that is too young to be kept serves them.
            content.adopt(item, saved)


def _moved(context: Context, change: Change, item: Item, *, adopted: bool) -> None:
    """A directory was made, or an item has its new name."""
    state, file = context.state, change.file
    with going_on(state, change):
        becomes = _becomes(change, item, adopted=adopted)
        gone = _moved_over(change)
        if file is not None and file.change is change:
            file.change = None
        state.write(edit(change, stage=Stage.PLACED, staged_id=item.id), *becomes, gone=gone)
        for replaced in gone:
            state.forget_bytes(replaced)
        _tell(context, change, item)
        # The namespace has it: from here on its names show that, however long cleanup takes.
        state.apply(change, shows={})
        if becomes and file is not None and file.local is not None:
            _go_on(context, file, item, adopted=False)
            state.bytes.retire(file.ino, change.generation)


def _moved_over(change: Change) -> list[File]:
    """Unsent bytes that an item took the place of, if the journal has them."""
    file = change.file
    if file is None or change.verb is Verb.MKDIR or change.is_backup:
        return []
    return [file] if file.recorded else []


def _becomes(change: Change, item: Item, *, adopted: bool) -> list[Edit]:
    """What changes of the directory, or the backup, that this item is now; nothing if it goes on to be of this machine."""
    file = change.file
    if file is not None and change.verb is Verb.MKDIR:
        return [edit(file, item_id=item.id, version=item.updated_at)]
    if file is None or not change.is_backup or item.path != change.target:
        return []  # the job may have given what was to be moved another name
    if file.generation != change.generation or file.written:
        return []
    # What was set of a backup here goes on to hold.
    version = item.updated_at if adopted else file.version
    return [edit(file, item_id=item.id, stays=False, version=version, sha256="", **_NOTHING)]


def _go_on(context: Context, file: File, item: Item, *, adopted: bool) -> None:
    """Everything written is on the server: handles go on with the version that was saved."""
    local, file.local = file.local, None
    assert local is not None
    for handle in file.handles:
        handle.go_on(item, context.content.open(item) if adopted else local.acquire())
    if file.handles:
        local.release()
    context.state.show(file)


def _tell(context: Context, change: Change, item: Item) -> None:
    for taken in change.taken:
        context.namespace.forget(taken)
    context.namespace.publish(item)


# -- undone


def undo(context: Context, change: Change, reason: str, code: int) -> None:
    """Nothing can be placed: the newest aside goes back, older ones become conflict copies (R11); no content is deleted.

    Nothing of the change is left then. A File keeps its bytes, refused for this reason, unless newer ones wait in it. Raises
    UnavailableError if it has to be tried again, or if a request without an answer has placed it after all; FsError(EIO).
    """
    client, state = context.client, context.state
    if change.staged_id and is_placed(client, change):
        raise UnavailableError(f"{change.target}: it was placed after all", endpoint="update")
    newest = True
    for aside in [aside for aside in reversed(change.asides) if aside.moved]:
        _give_back(context, aside, change.target, first=newest)
        aside.moved = newest = False
    if change.staged_id and change.verb is not Verb.MOVE:
        _discard_staged(client, change)
    with state.lock:
        if change.stage is Stage.CANCELLED:
            state.write(edit(change, asides=[]))
        else:
            state.write(*_refused(state, change, reason, code), gone=[change])
            state.end(change)


def _refused(state: State, change: Change, reason: str, code: int) -> list[Edit]:
    """The File that could not be saved keeps the reason; if newer bytes wait in it, those of the change go."""
    file = change.file
    if file is None or change.verb is Verb.MOVE:
        return []
    if file.generation == change.generation:
        return [edit(file, refused=reason, refused_errno=code)]
    state.bytes.retire(file.ino, change.generation)
    return []


def is_placed(client: Client, change: Change) -> bool:
    """True if what was to be placed is not where it was staged (R6)."""
    try:
        item = client.get(change.staged_id)
    except NotFoundError:
        return False
    return item.path == change.target if change.verb is Verb.MOVE else not change.is_staged(item)


def _give_back(context: Context, aside: Aside, target: str, *, first: bool) -> None:
    check = ConflictCheck(context)
    try:
        item = context.client.get(aside.id)
        if names.basename(item.path) != aside.name:
            return
        done = check.give_back(aside, item, target) if first else check.keep(aside, item, target)
    except NotFoundError:
        return
    if not done:
        raise UnavailableError(f"{target}: what was set aside is not back", endpoint="update")


def _discard_staged(client: Client, change: Change) -> None:
    try:
        client.delete(change.staged_id)
    except (NotFoundError, UnavailableError):
        # Its transaction id is a tombstone: a later listing that shows it deletes it.
        log.info("a staged item of %s is left to be deleted later", change.target)
