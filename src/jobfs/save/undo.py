"""Undo: nothing can be placed, so what was set aside goes back (save-protocol.md, The steps; R11)."""

from __future__ import annotations

import logging

from jobfs import names
from jobfs.api import Client
from jobfs.errors import NotFoundError, PathExistsError, UnavailableError
from jobfs.state import Change, State, edit
from jobfs.state.records import Aside, Stage, Verb

log = logging.getLogger("jobfs.save")

_NAMES = 8


def undo(client: Client, state: State, change: Change, reason: str, code: int) -> None:
    """Nothing can be placed: the newest aside goes back, older ones become conflict copies (R11); no content is deleted.

    Nothing of the change is left then. A File keeps its bytes, refused for this reason, unless newer ones wait in it. Raises
    UnavailableError if it has to be tried again, or if a request without an answer has placed it after all; FsError(EIO).
    """
    if change.staged_id and _is_placed(client, change):
        raise UnavailableError(f"{change.target}: it was placed after all", endpoint="update")
    newest = True
    for aside in reversed(change.asides):
        if aside.moved:
            _give_back(client, aside, change.target, first=newest)
            aside.moved = newest = False
    if change.staged_id and change.verb is not Verb.MOVE:
        _discard_staged(client, change)
    file = change.file
    with state.lock:
        if change.stage is Stage.CANCELLED:
            state.write(edit(change, asides=[]))
            return
        edits = []
        if file is not None and change.verb in (Verb.PUT, Verb.MKDIR):
            if file.generation == change.generation:
                edits.append(edit(file, refused=reason, refused_errno=code))
            else:
                state.bytes.retire(file.ino, change.generation)
        state.write(*edits, gone=[change])
        state.end(change)


def _is_placed(client: Client, change: Change) -> bool:
    """True if what was to be placed is not where it was staged (R6)."""
    try:
        item = client.get(change.staged_id)
    except NotFoundError:
        return False
    return item.path == change.target if change.verb is Verb.MOVE else not change.is_staged(item)


def _give_back(client: Client, aside: Aside, target: str, *, first: bool) -> None:
    try:
        item = client.get(aside.id)
        if names.basename(item.path) != aside.name:
            return
        if first and not client.find(target):
            try:
                client.update(aside.id, path=target)
                return
            except PathExistsError:
                pass
        for attempt in range(_NAMES):
            try:
                client.update(aside.id, path=names.beside(target, "conflict", attempt=attempt))
                return
            except PathExistsError:
                continue
    except NotFoundError:
        return


def _discard_staged(client: Client, change: Change) -> None:
    try:
        client.delete(change.staged_id)
    except (NotFoundError, UnavailableError):
        # Its transaction id is a tombstone: a later listing that shows it deletes it.
        log.info("a staged item of %s is left to be deleted later", change.target)
