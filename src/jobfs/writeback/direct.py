"""New files and directories created at their target in one request, where that is known to be safe (save-protocol.md R9).

It is safe on a server that answers 400 to a create at an existing path. That is never assumed: after a few new files this
mount tries it, once, at the path of a hidden item of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jobfs import names
from jobfs.api import Client
from jobfs.errors import AnswerLostError, ApiError, FsError, NoDirectoryError, PathExistsError
from jobfs.nodes import Item, Permission
from jobfs.writeback.digest import with_bytes
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import Attempt, SaveKind
from jobfs.writeback.stager import Stager
from jobfs.writeback.transaction import Transaction

log = logging.getLogger("jobfs.writeback")

#: So many new files are made in two requests before it is worth to ask the server.
_WORTH = 2
#: Where it could not be asked, it is asked again after so many more.
_AGAIN = 50
#: Seconds by which the server's clock may be misjudged.
_SKEW = 1.5
#: Most creates in one run whose answers are lost.
_CREATES = 4


class Direct:
    """Creates new files at their targets. Every method may be called from any thread."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        stager: Stager,
        mount: str,
        probe: Path,
        background: Callable[[Callable[[], object]], None],
    ) -> None:
        """`probe`: where a file of one byte may be made that is sent to learn how the server behaves."""
        self._client = client
        self._journal = journal
        self._stager = stager
        self._mount = mount
        self._probe = probe
        self._background = background
        self._lock = threading.Lock()
        self._seen = 0
        #: Whether this server rejects a create at the path of an existing file, or directory; None: not known.
        self.rejects: bool | None = None
        self.rejects_directories: bool | None = None

    def wanted(self, work: Transaction) -> bool:
        """True if this new file is to be created at its target."""
        save = work.save
        if save.kind is not SaveKind.SAVE or save.base.id or save.tid or work.local is None or work.suspect:
            return False
        self.expect(save.target)
        return bool(self.rejects)

    def expect(self, target: str) -> None:
        """Something new was made here and will have to be created: after a few, the server is asked how it behaves."""
        with self._lock:
            self._seen += 1
            learn = None in (self.rejects, self.rejects_directories) and self._seen % _AGAIN == _WORTH
        if learn:
            self._background(lambda: self.learn(target))

    def make_directory(self, path: str, permission: Permission) -> Item | None:
        """The new directory; None: it is to be made the hidden way. Raises PathExistsError, ApiError."""
        self.expect(path)
        if not self.rejects_directories:
            return None
        began = time.monotonic()
        try:
            return self._client.create_directory(path, permission)
        except NoDirectoryError:
            return None
        except AnswerLostError:
            for item in self._client.find(path):
                if item.is_dir and self._age(item) < time.monotonic() - began + _SKEW:
                    return item
        return None

    def _age(self, item: Item) -> float:
        return time.time() + self._client.server_time_offset - item.updated_ns / 1e9

    def create(self, work: Transaction) -> Item | None:
        """The new item at the target; None: something else is there, save it the hidden way.

        After a lost answer the target is looked at: nothing there: again; the same bytes: adopted. Raises Cancelled, ApiError.
        """
        save = work.save
        if save.direct:
            # An earlier run's create may have been carried out, or may still be.
            work.unsure = True
        for _ in range(_CREATES):
            if work.unsure and (found := self.find(work)) is not None:
                return found
            if not self.rejects:
                break
            save.direct = True
            work.record(self._journal)
            try:
                assert work.local is not None
                permission = save.permission or Permission.READ_WRITE
                save.sha256 = work.local.sha256()
                made = self._client.create_file(save.target, work.local.path, save.size, permission)
                if made.size in (None, save.size):
                    return made
                break
            except PathExistsError:
                if not work.unsure:
                    break
            except NoDirectoryError:
                self._stager.make_directory(names.parent(save.target))
            except AnswerLostError:
                work.unsure = True
        if work.unsure and (found := self.find(work)) is not None:
            return found
        save.direct = work.unsure = False
        work.record(self._journal)
        return None

    def find(self, work: Transaction) -> Item | None:
        """The item at the target, if it has the bytes of this save. Raises ApiError."""
        save = work.save
        if work.local is None:
            return None
        for item in self._client.find(save.target):
            if item.is_dir or item.size not in (None, save.size):
                continue
            found = with_bytes(self._client, item, work.local.sha256())
            if found is not None:
                save.sha256 = work.local.sha256()
                return found
        return None

    def learn(self, target: str) -> None:
        """Create hidden items of our own beside `target` twice, and see what the server says. Raises ApiError."""
        try:
            self._probe.write_bytes(b"?")
        except OSError as error:
            raise FsError(error.errno or 5, f"can't write {self._probe}: {error.strerror}") from error
        allowed = Permission.READ_WRITE
        self.rejects = self._rejects(
            target, lambda path: self._client.create_file(path, self._probe, 1, allowed)
        )
        self.rejects_directories = self._rejects(
            target, lambda path: self._client.create_directory(path, allowed)
        )
        log.info(
            "creates at existing paths are rejected by this server: files %s, directories %s",
            self.rejects, self.rejects_directories,
        )  # fmt: skip

    def _rejects(self, target: str, create: Callable[[str], Item]) -> bool:
        tid = names.new_transaction_id()
        # A tombstone from the start: whatever of it is left over is deleted by a later listing (R4).
        self._journal.write(Attempt(tid, 0, time.time()))
        path = names.hidden_path(target, self._mount, tid, names.Role.STAGED)
        made = []
        try:
            made.append(create(path).id)
            try:
                made.append(create(path).id)
            except PathExistsError:
                return True
            return False
        finally:
            for item_id in dict.fromkeys(made):
                try:
                    self._client.delete(item_id)
                except ApiError as error:
                    log.info("%s is deleted later: %s", path, error)
