"""Deleting: a file, one that is still open, a directory; never what the user did not see (vfs/semantics.md 4;
save/protocol.md R10, R12).
"""

from __future__ import annotations

import errno
import logging

from jobfs import names
from jobfs.api import deadline
from jobfs.errors import (
    REFUSALS,
    AnswerLostError,
    ApiError,
    BadRequestError,
    FsError,
    NoDirectoryError,
    NotFoundError,
    UnavailableError,
)
from jobfs.nodes import Item
from jobfs.save.cleanup import Cleanup, forget, is_base, spare
from jobfs.save.context import Context
from jobfs.save.replace import Replace
from jobfs.state import Change, edit
from jobfs.state.records import Aside, Base, Stage, Verb

log = logging.getLogger("jobfs.save")

_LOOKS = 8


class Remove:
    """Deletes items. May be called from any thread."""

    def __init__(self, context: Context, replace: Replace, cleanup: Cleanup) -> None:
        self._context = context
        self._client = context.client
        self._state = context.state
        self._replace = replace
        self._cleanup = cleanup

    def delete(self, item: Item) -> None:
        """Delete the item that was seen at its path at most 1 s ago; if it is gone, look for another one there (R10).

        No request is sent again without another look: meanwhile the job may have renamed the item, or made another one
        where ours was deleted without an answer. Raises ApiError.
        """
        spare(self._context, item.id)
        lost = False
        gone: set[str] = set()
        for attempt in range(_LOOKS):
            try:
                self._client.delete(item.id, once=True)
                return forget(self._context, item)
            except AnswerLostError:
                lost = True
            except NotFoundError:
                forget(self._context, item)
                if lost:
                    return None
                gone.add(item.id)
            except UnavailableError as error:
                self._pause(error, attempt)
            there = self._context.namespace.lookup(item.path, max_age=0.0)
            if there is None or there.is_dir or there.id in gone:
                return None
            if lost and there.id != item.id:
                return forget(self._context, item)
            item = there
        raise UnavailableError(f"{item.path} can't be deleted: no answer", endpoint="delete")

    def _pause(self, error: UnavailableError, attempt: int) -> None:
        """Wait before a request is tried again; raises `error` if there is no time for that."""
        # The looks are few: the last ones come late in the time that a call has.
        pause = deadline.backoff(attempt, error, most=deadline.UNBOUNDED)
        deadline.pause(pause, error, self._context.timeout)

    # -- a file whose bytes are needed here, or that the server does not have as it is here

    def run(self, change: Change) -> None:
        """Carry out the unlink of a file that is read here, or the removal of one that has a scratch name here now.

        From here on it does not come back after a kill: its bytes here are on the disk. Raises ApiError, FsError.
        """
        change.begun = True
        if change.base.id:
            self._state.sync()
            self._state.write(edit(change))
        try:
            self.delete_version(change.target, change.base)
        except REFUSALS as error:
            # What takes its name would wait for ever.
            log.warning("%s: its removal is refused, and it is there again: %s", change.target, error)
            self._state.end(change)
            self._context.namespace.touch(change.target)
            raise
        self._state.end(change)

    def delete_version(self, path: str, base: Base) -> None:
        """Delete the item at `path` if it still is the version that was shown here: what the job has written since stays.

        Before every delete it is looked at (R7). Raises ApiError, FsError.
        """
        if not base.id:
            return None
        spare(self._context, base.id)
        for attempt in range(_LOOKS):
            item = self._still_there(path, base)
            if item is None:
                return self._context.namespace.touch(path)
            try:
                self._client.delete(item.id, once=True)
                return forget(self._context, item)
            except NotFoundError:
                return forget(self._context, item)
            except AnswerLostError:
                continue
            except UnavailableError as error:
                self._pause(error, attempt)
        raise UnavailableError(f"{path} can't be deleted: no answer", endpoint="delete")

    def _still_there(self, path: str, base: Base) -> Item | None:
        """The item of that version, if that is what stands at the path."""
        try:
            item = self._client.get(base.id)
        except NotFoundError:
            return None
        if item.path != path:
            return None
        if is_base(self._context, item, base):
            return item
        log.warning("%s: the job has written to it since it was shown here: it stays", path)
        return None

    # -- directories

    def remove_directory(self, item: Item) -> None:
        """Remove a directory that is seen empty (R12): out of the job's reach, looked at again later, then deleted.

        Raises FsError(ENOTEMPTY), ApiError.
        """
        namespace, state = self._context.namespace, self._state
        if namespace.children(item.path, max_age=namespace.recent) or self._cleanup.holds(item.path):
            raise FsError(errno.ENOTEMPTY)
        with state.running(Verb.REMOVE, item.path, stage=Stage.STAGED) as change:
            try:
                # Else, in a deep tree, the hidden names of those in it would come one below the other: no path is so long.
                near = names.basename(item.path) if self._has_hidden(item.path) else item.path
                aside = self._replace.plan_aside(change, item, names.Role.REMOVED, near)
                self._take_away(change, item, aside)
            except BaseException:
                if change.stage is Stage.STAGED:
                    state.end(change)
                raise
        state.lose(item.id)

    def _has_hidden(self, directory: str) -> bool:
        """True if this mount has set something aside in a directory."""
        asides = (aside for change in [*self._state.changes.values()] for aside in change.asides)
        return any(names.under(aside.path, directory) for aside in asides)

    def _take_away(self, change: Change, item: Item, aside: Aside) -> None:
        """Move the directory to its hidden name. Raises NotFoundError if it has another name by now, ApiError."""
        try:
            answer = self._hide(item, aside)
        except (NotFoundError, BadRequestError):
            raise
        except ApiError:
            if aside.unsure_until:
                # It may have been carried out: then it is looked at as one that an earlier run left.
                self._state.write(edit(change, stage=Stage.PLACED, asides=[aside]))
                self._context.namespace.touch(item.path)
            raise
        aside.seen(answer)
        # Before cleanup may look: what a listing shows in it from now on is not to be forgotten.
        self._context.namespace.forget(item)
        self._state.write(edit(change, stage=Stage.PLACED, asides=[aside]))

    def _hide(self, item: Item, aside: Aside) -> Item:
        for attempt in range(_LOOKS):
            try:
                return self._client.update(item.id, path=aside.path, once=True)
            except AnswerLostError:
                aside.unsure_until = self._context.unanswered(item.id)
            except NoDirectoryError:
                if attempt:
                    raise
                self._replace.make_directory(names.parent(item.path))
                continue
            except UnavailableError as error:
                self._pause(error, attempt)
            answer = self._client.get(item.id)
            if aside.is_at(answer):
                return answer
            if answer.path != item.path:
                raise NotFoundError(f"{item.path} was renamed by the job", endpoint="update")
        raise UnavailableError(f"the answers to removing {item.path} are lost", endpoint="update")
