"""Open files that libfuse hides: they are unlinked, or something is about to be renamed over them (semantics.md section 4).

libfuse 2 does both with a rename to a hidden name first; which of the two it is shows only by what comes next in that thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from jobfs import names
from jobfs.errors import FsError
from jobfs.nodes import Item
from jobfs.writeback.records import Fate
from jobfs.writeback.transaction import Transaction

if TYPE_CHECKING:
    from jobfs.writeback.engine import WriteBack

log = logging.getLogger("jobfs.writeback")

#: Seconds after which a hidden open file counts as unlinked: libfuse renames over it at once, or not at all.
_CONFIRM = 0.003
#: Seconds within which a rename over it still is libfuse's, though it counts as unlinked by then.
_PAIRED = 0.03
#: Seconds after which it is really deleted: a rename that was slow to come still finds it.
_DELETE = 0.5


class Hidden(NamedTuple):
    """An open file that libfuse hides, the thread that it serves the call in, and when that was done (monotonic seconds)."""

    work: Transaction
    thread: int
    since: float


class Hiding:
    """Knows what is hidden by path, until it is unlinked or replaced. May be called from any thread."""

    def __init__(self, engine: WriteBack) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._hidden: dict[str, Hidden] = {}
        #: Those of them that a rename under way is going to replace.
        self._replaced: list[Transaction] = []

    def hide(self, item: Item) -> None:
        """libfuse hides an open file: it is being unlinked, or something is about to be renamed over it."""
        work = self._engine.removals.set_aside(item)
        if not work.asides[0].moved:
            return
        self.conclude_at(item.path)
        with self._lock:
            self._hidden[item.path] = Hidden(work, threading.get_ident(), time.monotonic())
        for delay, step in ((_CONFIRM, self._confirm), (_DELETE, self._conclude)):
            timer = threading.Timer(delay, step, [item.path, work])
            timer.daemon = True
            timer.start()

    def _confirm(self, path: str, work: Transaction) -> None:
        """Nothing was renamed over the hidden file: from now on a crash does not bring it back."""
        with self._lock:
            if not self._is_hidden(path, work) or work in self._replaced:
                # Whoever has dealt with it since may have judged its aside, too.
                return
            if any(aside.fate is not Fate.DELETE for aside in work.asides):
                try:
                    self._decide(work, Fate.DELETE)
                except FsError as error:
                    # Nobody who only looks at something is told of that: at worst a crash brings the file back.
                    log.warning("%s: that it was unlinked is not recorded: %s", path, error)

    @property
    def pending(self) -> bool:
        """True while the next operation is going to tell what became of a hidden file."""
        return bool(self._hidden)

    def go_on(self) -> None:
        """Another operation came: what is hidden was unlinked, not renamed over."""
        if self._hidden:
            for path, hidden in list(self._hidden.items()):
                self._confirm(path, hidden.work)

    def _is_hidden(self, path: str, work: Transaction) -> bool:
        hidden = self._hidden.get(path)
        return hidden is not None and hidden.work is work

    def _conclude(self, path: str, work: Transaction) -> None:
        with self._lock:
            if not self._is_hidden(path, work) or work in self._replaced:
                return
            del self._hidden[path]
        self._engine.removals.finish(work)

    def conclude_all(self) -> None:
        """Delete at once what was unlinked while open: the mount is being drained."""
        with self._lock:
            waiting = list(self._hidden.items())
        for path, hidden in waiting:
            self._conclude(path, hidden.work)

    def conclude_at(self, path: str) -> None:
        """Something new is made at this name: what was hidden there was unlinked, and is not renamed over any more."""
        hidden = self._hidden.get(path)
        if hidden is not None:
            self._conclude(path, hidden.work)

    def conclude_under(self, directory: str) -> None:
        """Whoever removes a directory has unlinked what was open in it: that is not renamed over any more."""
        with self._lock:
            waiting = [
                (path, hidden) for path, hidden in self._hidden.items() if names.under(path, directory)
            ]
        for path, hidden in waiting:
            self._conclude(path, hidden.work)

    def hidden_at(self, path: str) -> Transaction | None:
        """The open file that was hidden from `path` just before, if a rename over it is what libfuse is doing.

        It does both in one thread. One that was hidden in another, or is known to be unlinked for longer, is deleted: what
        comes now is another rename.
        """
        with self._lock:
            hidden = self._hidden.get(path)
            if hidden is None:
                return None
            if hidden.work in self._replaced or self._is_paired(hidden):
                del self._hidden[path]
                return hidden.work
        self._conclude(path, hidden.work)
        return None

    @staticmethod
    def _is_paired(hidden: Hidden) -> bool:
        """True if a rename over it that comes now is the second half of what libfuse does."""
        unlinked = any(aside.fate is Fate.DELETE for aside in hidden.work.asides)
        late = unlinked and time.monotonic() - hidden.since > _PAIRED
        return hidden.thread == threading.get_ident() and not late

    @contextlib.contextmanager
    def replacing(self, path: str) -> Iterator[None]:
        """A rename to `path` is under way: an open file that libfuse has just hidden there is not unlinked.

        Until the rename has taken its place it comes back, whether this process dies or the rename fails. Raises FsError.
        """
        with self._lock:
            hidden = self._hidden.get(path)
            if hidden is None or not self._is_paired(hidden):
                hidden = None
            else:
                self._replaced.append(hidden.work)
        if hidden is None:
            yield
            return
        work = hidden.work
        try:
            if any(aside.fate is Fate.DELETE for aside in work.asides):
                self._decide(work, Fate.RETURN)
            yield
        except BaseException:
            with self._lock:
                if self._is_hidden(path, work):
                    del self._hidden[path]
            # Else it is the transaction's to put back that has it now.
            if work.asides:
                self._engine.removals.judge_later(work)
            raise
        finally:
            with self._lock:
                self._replaced.remove(work)
        self._conclude(path, work)

    def _decide(self, work: Transaction, fate: Fate) -> None:
        for aside in work.asides:
            aside.fate = fate
        self._engine.journal.write(*work.asides)
