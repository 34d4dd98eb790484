"""A mount in this process that can be stopped at each of its boundaries: before and after each request and each journal write.

`Boundaries` counts them in all threads. At the chosen one it dies as by kill -9 (from then on every thread that reaches a
boundary ends there), or lets the job do something. `Mortal` is a workspace that can be thrown away dead.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from jobfs.api import health
from jobfs.api.client import Client
from jobfs.cli import graph
from jobfs.emulator import Server
from jobfs.errors import ApiError, JobfsError
from jobfs.save import cleanup, rename, writeback
from jobfs.save import queue as save_queue
from jobfs.state.journal import Journal

from .serverside import check_tree, hidden
from .waiting import PATIENCE, eventually
from .workspaces import Workspace

R = TypeVar("R")

#: By method of Client: whether it has a second boundary, after its answer.
_REQUESTS = {
    "find": True, "get": True, "create_file": True, "create_directory": True, "update": True, "delete": True,
    "download": False,
}  # fmt: skip
_CHANGING = ("create_file", "create_directory", "update", "delete")
_JOURNAL = ("write", "written", "sync", "synced")


class Death(BaseException):
    """The process died."""


class Boundaries:
    """Counts boundaries while it is armed; at number `at` it calls `act` once, or without `act` the process dies."""

    #: `failures`: a request that fails ends in a boundary, too. `turns`: there is a boundary before a request that an observation
    #: justifies gets its connection.
    failures = turns = False

    def __init__(self, at: int = 0, act: Callable[[], object] | None = None, *, journal: bool = True) -> None:
        """`journal`: count the boundaries of journal writes, too."""
        self.journal = journal
        self.passed: list[str] = []
        self.dead = False
        #: The boundary at which the process died or `act` was called last.
        self.last = "nowhere"
        self._at = at
        self._act = act or self.die
        self._armed = False
        self._lock = threading.Lock()

    @property
    def struck(self) -> bool:
        """Return whether a boundary was reached at which something happens."""
        return self.last != "nowhere"

    def die(self) -> None:
        """Let every thread that reaches a boundary end there."""
        self.dead = True

    def arm(self) -> None:
        self._armed = True

    def disarm(self) -> None:
        self._armed = False

    def reach(self, name: str) -> None:
        # A download changes nothing, and others wait for it: it continues, to no effect.
        harmless = name == "before download"
        with self._lock:
            if self.dead and not harmless:
                raise Death(name)
            if self.dead or not self._armed:
                return
            self.passed.append(name)
            due = self._due(name)
            self.last = name if due else self.last
        for act in due:
            act()
        if self.dead and not harmless:
            raise Death(name)

    def _due(self, name: str) -> list[Callable[[], object]]:
        """Return what happens at the boundary that was passed last."""
        return [self._act] if len(self.passed) == self._at else []

    def surround(self, sends: int) -> bool:
        """Return whether boundaries were passed before and after at least `sends` changing requests, and journal writes.

        Where items are set aside, before and after syncs, too.
        """
        count = Counter(self.passed)
        requests = sum(min(count[f"before {name}"], count[f"after {name}"]) for name in _CHANGING)
        writes = not self.journal or min(count["write"], count["written"]) > 0
        syncs = not self.journal or sends < 3 or min(count["sync"], count["synced"]) > 0
        return requests >= sends and writes and syncs


class At(Boundaries):
    """Calls `act` when a boundary is reached for the `nth` time, or dies there."""

    failures = True

    def __init__(self, boundary: str, nth: int = 1, act: Callable[[], object] | None = None) -> None:
        super().__init__(0, act, journal=boundary in _JOURNAL)
        self._wanted = (boundary, nth)

    def _due(self, name: str) -> list[Callable[[], object]]:
        boundary, nth = self._wanted
        return [self._act] if name == boundary and self.passed.count(name) == nth else []


def _watched(boundaries: Boundaries) -> type[Client]:
    def around(name: str, after: bool) -> Callable[..., Any]:
        real = getattr(Client, name)

        def call(self: Client, *arguments: Any, **more: Any) -> Any:
            boundaries.reach(f"before {name}")
            try:
                answer = real(self, *arguments, **more)
            except ApiError:
                if boundaries.failures:
                    boundaries.reach(f"failed {name}")
                raise
            if after:
                boundaries.reach(f"after {name}")
            return answer

        return call

    def hold_connection(self: Client, what: object) -> Any:
        if boundaries.turns:
            boundaries.reach("before turn")
        return Client.hold_connection(self, what)

    watched = {name: around(name, after) for name, after in _REQUESTS.items()}
    return type("Watched", (Client,), {**watched, "hold_connection": hold_connection})


def watch(journal: Journal, observe: Callable[[str], object]) -> None:
    """Call `observe` before and after each write and each sync of the journal from now on; it may end the call by raising."""

    def observed(real: Callable[..., None], start: str, end: str) -> Callable[..., None]:
        def call(*arguments: Any, **more: Any) -> None:
            observe(start)
            real(*arguments, **more)
            observe(end)

        return call

    journal.write = observed(journal.write, "write", "written")  # type: ignore[method-assign]
    journal.sync = observed(journal.sync, "sync", "synced")  # type: ignore[method-assign]


class Mortal(Workspace):
    """A workspace whose requests and journal writes pass `boundaries`. As a context manager, it starts and ends."""

    def __init__(self, server: Server, home: Path, boundaries: Boundaries, **options: Any) -> None:
        quick: dict[str, Any] = {
            "write_back_delay": 0.0,
            "request_lifetime": 0.02,
            "ttl": 0.1,
            "timeout": PATIENCE,  # a busy machine may pause for seconds
        }
        super().__init__(server, home, **{**quick, **options})
        self.boundaries = boundaries

    def start(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph, "Client", _watched(self.boundaries))
            super().start()
        if self.boundaries.journal:
            watch(self.state.journal, self.boundaries.reach)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def next(self, **options: Any) -> Mortal:
        """Return the next mount, which takes over what this one has left."""
        return Mortal(self.server, self.home, Boundaries(), **options)

    def work(self, operation: Callable[[], R]) -> R | None:
        """Run `operation` with the boundaries armed, and wait until the background is at rest; return None if it has died."""
        self.boundaries.arm()
        answer = None
        try:
            answer = operation()
            eventually(lambda: self.boundaries.dead or self.at_rest(), self.unrest)
        except (Death, JobfsError):
            if not self.boundaries.dead:
                raise
        self.boundaries.disarm()
        return None if self.boundaries.dead else answer

    def at_rest(self) -> bool:
        """Return whether nothing is left to send or to decide, and the server shows nothing hidden."""
        self.vfs.listdir("")
        refused = [file for file in self.state.backlog().files if file.refused]
        unsent = [file for file in self.state.backlog().files if file not in refused]
        late = self.write_back.context.relist_after > time.monotonic()
        return not (unsent or self.state.changes or late) and not hidden(self.server)

    def unrest(self) -> str:
        return f"open: {list(self.state.changes.values())} hidden: {hidden(self.server)}"

    def settle(self, tree: Mapping[str, bytes | None] | None = None) -> None:
        """Send everything unsent, and wait until nothing is left to decide; then check that the server has this tree."""
        self.drain()
        eventually(self.at_rest, self.unrest)
        check_tree(self.server, tree)

    def bury(self) -> None:
        """Release what the dead process held, as the kernel does: nothing is written or sent after that."""
        assert self.running
        assert self.boundaries.dead
        self.running = False
        write_back = self.write_back
        for thread in write_back._threads:
            thread.stop()
        write_back.queue.stop()
        for thread in write_back._threads:
            thread.join()
        write_back.context.stop_threads()
        self.state.close()
        self._graph.close()
        self._slot.close()

    def kill(self) -> None:
        """Die by kill -9 now, and `bury`."""
        self.boundaries.die()
        self.bury()

    def end(self) -> None:
        """Unmount, or `bury` if dead."""
        if self.running:
            if self.boundaries.dead:
                self.bury()
            else:
                self.stop()


@contextlib.contextmanager
def hurrying(scratch_delay: float = 0.2, sync_interval: float = writeback.INTERVALS.sync) -> Iterator[None]:
    """Shorten pauses, make disk syncs do nothing, and silence threads that died at a boundary.

    `scratch_delay`: seconds until the item of a file that was renamed to a scratch name leaves the server. `sync_interval`:
    seconds between disk syncs.
    """
    default_hook = threading.excepthook

    def silent(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, Death):
            default_hook(arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writeback, "INTERVALS", replace(writeback.INTERVALS, sync=sync_interval, tidy=0.02))
        patch.setattr(rename, "SCRATCH_DELAY", scratch_delay)
        patch.setattr(save_queue, "LIMITS", replace(save_queue.LIMITS, first_delay=0.05))
        patch.setattr(cleanup, "_AGAIN", 0.02)
        patch.setattr(cleanup, "_LIST_EVERY", 0.05)
        patch.setattr(health, "_PROBE_EVERY", 0.1)
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(os, "fdatasync", lambda handle: None)
        patch.setattr(threading, "excepthook", silent)
        yield
