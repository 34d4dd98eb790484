"""Changes of items on the server that the caller waits for: moved, a directory with all in it, given another permission."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from jobfs import names
from jobfs.errors import (
    AnswerLostError,
    BadRequestError,
    JobfsError,
    NoDirectoryError,
    NotFoundError,
    UnavailableError,
)
from jobfs.nodes import Item
from jobfs.save.context import Context
from jobfs.save.replace import Replace
from jobfs.state import Change, File, State, edit
from jobfs.state.records import Stage, Verb
from jobfs.trial.questions import carried

log = logging.getLogger("jobfs.save")

#: Most items that are asked whether they moved along with their directory.
_ASKED = 3


class Rename:
    """Synchronous changes; each raises ApiError, with the errno that the caller gets (vfs/semantics.md 5)."""

    def __init__(self, context: Context, replace: Replace) -> None:
        self._context = context
        self._client = context.client
        self._state = context.state
        self._namespace = context.namespace
        self._replace = replace

    def update(self, item: Item, **wanted: Any) -> Item:
        """Change an item's path, to a free name, permission or lifecycle with one request. Raises PathExistsError, ApiError."""
        lost: AnswerLostError | None = None
        for _ in range(3):
            try:
                answer = self._context.content.update(item, **wanted)
            except AnswerLostError as error:
                self._context.unanswered(item.id)
                lost = error
                answer = self._client.get(item.id)
                if any(value not in (None, getattr(answer, name)) for name, value in wanted.items()):
                    self._context.check_form(answer, wanted.get("path", answer.path), item.path)
                    continue
            except NoDirectoryError:
                self._replace.make_directory(names.parent(wanted["path"]))
                continue
            if lost is None:
                # Else the job may have written to it between the request and the look (R2).
                self._context.touched(item, answer)
            if "path" in wanted:
                self._context.renamed(item.id, answer.path)
            self._namespace.publish(answer)
            return answer
        raise lost or UnavailableError(
            f"the directory of {wanted['path']} keeps being removed", endpoint="update"
        )

    def rename_directory(self, item: Item, new: str) -> None:
        """Rename a directory with one request; the caller holds both names, and nothing runs below them. Raises ApiError.

        Killed in between, the next mount asks the server whether it was renamed (`find_renamed`).
        """
        old = item.path
        values = {"stage": Stage.STAGED, "source": old, "staged_id": item.id, "direct": True}
        with self._state.running(Verb.MOVE, new, **values) as change:
            try:
                self._state.write(edit(change), new=True)
                inside = [] if self._context.known.moves_carry else self._below(old)[:_ASKED]
                self.update(item, path=new)
                self._bring_along(inside, old, new)
                repath(self._state, change)
                self._context.renamed_directory(old, new)
            except BaseException:
                self._state.end(change)
                raise

    def _bring_along(self, inside: list[Item], old: str, new: str) -> None:
        """Move what is in a directory by itself, on a server that moves a directory's own item only.

        The reference does not say which; the first directory with something in it shows. `inside`: some of that.
        """
        if not inside:
            return
        try:
            if self._context.known.moves_carry is None:
                self._context.server.learn(moves_carry=carried(self._client, inside, new))
            if self._context.known.moves_carry is not False:
                return
            self._namespace.refresh()
            for item in self._below(old):
                try:
                    self.update(item, path=names.moved(item.path, old, new))
                except (BadRequestError, NotFoundError) as error:
                    log.warning("%s stays where it is though %s was renamed: %s", item.path, old, error)
        except JobfsError as error:
            # The directory itself was renamed, and nothing is lost: what stayed is shown where it is.
            log.warning("what is in %s may not have been renamed with it: %s", old, error)

    def _below(self, directory: str) -> list[Item]:
        """Every known item in a directory, those above before what is in them."""
        known = self._namespace.subtree(directory)
        return sorted((item for item in known if item.path != directory), key=lambda item: item.path)


def repath(state: State, change: Change) -> None:
    """A directory was renamed: every File and Change below it says so, in the journal write that ends the rename.

    Raises FsError(EIO).
    """
    old, new = change.source, change.target

    def moved(path: str) -> str:
        return names.moved(path, old, new) if names.under(path, old) else path

    def repathed(change: Change) -> dict[str, Any]:
        shows = {moved(path): item for path, item in change.shows.items()}
        return {"target": moved(change.target), "source": moved(change.source), "shows": shows}

    with state.lock:
        edits: list[tuple[File | Change, dict[str, Any]]] = [
            (file, {"path": names.moved(file.path or "", old, new)}) for file in state.beneath(old)
        ]
        edits += [
            (other, repathed(other))
            for other in state.changes.values()
            if other is not change and names.under(other.target, old)
        ]
        state.write(*(step for step in edits if step[0].recorded), gone=[change])
        for record, values in edits:
            if not record.recorded:
                state.apply(record, **values)
        state.end(change)


def find_renamed(context: Context, change: Change) -> None:
    """Ask the server whether a directory was renamed just before the end. Raises ApiError: nothing can be shown before."""
    with contextlib.suppress(NotFoundError):
        if context.client.get(change.staged_id).path == change.target:
            repath(context.state, change)
            return
    context.state.end(change)
