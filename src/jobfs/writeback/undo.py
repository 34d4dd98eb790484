"""Undo: nothing can be placed, so what was set aside goes back (save-protocol.md, The steps; R11)."""

from __future__ import annotations

import logging
from dataclasses import replace

from jobfs import names
from jobfs.api import Client
from jobfs.errors import NotFoundError, PathExistsError, UnavailableError
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import Aside, Save, SaveKind, State
from jobfs.writeback.transaction import Transaction

log = logging.getLogger("jobfs.writeback")

_NAMES = 8


def undo(client: Client, journal: Journal, work: Transaction, reason: str, code: int) -> None:
    """Nothing can be placed: the newest aside goes back, older ones become conflict copies (R11); no delete of content.

    The local bytes, if any, stay as `failed`; of a rename no record stays. Raises UnavailableError if it has to be tried again,
    or if a request without an answer has placed it after all; FsError(ENOSPC, EIO).
    """
    save = work.save
    if save.staged_id and _is_placed(client, work):
        raise UnavailableError(f"{save.target}: it was placed after all", endpoint="update")
    newest = True
    for aside in sorted(work.asides, key=lambda aside: -aside.order):
        if aside.moved:
            _give_back(client, aside, save.target, first=newest)
            aside.moved = newest = False
    if save.staged_id and save.kind is not SaveKind.RENAME:
        _discard_staged(client, save)
    with work.lock:
        # The journal first: what it can't take has to be tried again.
        if save.state is State.CANCELLED:
            journal.write(gone=work.asides)
        elif save.kind is SaveKind.RENAME:
            # Both files are where they were: nothing is left to try again, after a death neither.
            journal.write(gone=[save, *work.asides])
            save.refused, save.refused_errno = reason, code
            save.become(State.DONE)
        else:
            begun = save.as_of(State.STAGING) if save.state is State.STAGED else save
            after = replace(begun, tid="", staged_id="", refused=reason, refused_errno=code)
            journal.write(after, gone=work.asides)
            save.tid = save.staged_id = ""
            save.refused, save.refused_errno = reason, code
            if save.state is State.STAGED:
                save.become(State.STAGING)
        work.asides.clear()


def _is_placed(client: Client, work: Transaction) -> bool:
    """True if what was to be placed is not where it was staged (R6)."""
    try:
        item = client.get(work.save.staged_id)
    except NotFoundError:
        return False
    return item.path == work.save.target if work.save.kind is SaveKind.RENAME else not work.is_staged(item)


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


def _discard_staged(client: Client, save: Save) -> None:
    try:
        client.delete(save.staged_id)
    except (NotFoundError, UnavailableError):
        # Its transaction id is a tombstone from now on: a later listing that shows it deletes it.
        log.info("a staged item of %s is left to be deleted later", save.target)
