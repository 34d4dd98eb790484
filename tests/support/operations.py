"""Operations on one file, for tests that stop the process in the middle of each: the tree before and after."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobfs.emulator import Server
from jobfs.errors import REFUSALS, FsError
from jobfs.nodes import Kind
from jobfs.state import Change

from .boundaries import Boundaries, Mortal
from .judge import Judge, State
from .serverside import found_on
from .waiting import eventually
from .workspaces import CALLER, check_shown

Tree = dict[str, bytes | None]

OLD, NEW = b"the old content", b"what the user has written instead"
DRAFT = b"what is renamed over it"
BEGINNING = NEW[:13]
OTHERS: Tree = {"dir": None, "dir/other": b"untouched"}


class Unclosed(Judge):
    """Bytes that no program had closed, or not all of them, may be recovered; a directory is empty then."""

    whole: tuple[State, ...] = (None, NEW, NEW + OLD[len(NEW) :], OLD, DRAFT)

    def may_be_kept(self, label: str, path: str, state: State) -> bool:
        part = isinstance(state, bytes) and state.rstrip(b"\0") in (b"", BEGINNING)
        return label == "recovered" and (state in self.whole or part)


class Unsynced(Unclosed):
    """The same after a loss of power, with nothing that was only opened."""

    whole = Unclosed.whole[:3]


@dataclass
class Promise:
    """What the operation has promised to its caller so far."""

    kept: bool = False

    def keep(self, work: Mortal) -> None:
        """Note that the operation returns, unless the process died in another thread: then no caller learns of it."""
        self.kept = not work.boundaries.dead


@dataclass(frozen=True)
class Operation:
    """An operation: `run` does it. Afterwards the tree is `after` or one of `before`; once the promise was given, `after`.

    `before`: the initial tree (`seed`) unless given. `durable`: the promise is that the server has it, which no loss of power
    undoes. `sends`: the least number of changing requests; with fewer, a test that stops at each of them would prove nothing.
    """

    name: str
    run: Callable[[Mortal, Promise], None]
    after: Tree
    before: tuple[Tree, ...] = ()
    prepare: Callable[[Mortal], object] = lambda work: None
    seed: Tree = field(default_factory=lambda: {"dir/file": OLD})
    durable: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    sends: int = 1

    @contextmanager
    def started(
        self, server: Server, home: Path, boundaries: Boundaries, **options: object
    ) -> Iterator[Mortal]:
        """Start a mount in which the operation can run; it ends with an unmount or `bury`."""
        server.reset()
        server.store.seed({**OTHERS, **self.seed}, age=60)
        with Mortal(server, home, boundaries, **{**self.options, **options}) as work:
            self.prepare(work)
            yield work

    def check(self, work: Mortal, promise: Promise, where: str, *, power_lost: bool = False) -> None:
        """Check that the trees of the server and of the mount are the old one or the new one, whole.

        Bytes that were not closed may come back beside their name; with `power_lost`, so may bytes that were only closed.
        """
        kept = promise.kept and (self.durable or not power_lost)
        allowed = [self.after] if kept else [*(self.before or [self.seed]), self.after]
        found, judge = found_on(work.server), Judge if kept else Unsynced if power_lost else Unclosed
        wrong = [judge({**OTHERS, **tree}).violations(found) for tree in allowed]
        assert [] in wrong, f"{self.name}, {where}, promise {promise.kept}: {wrong}"
        check_shown(work)


Run = Callable[[Mortal, Promise], None]


def with_promise(act: Callable[[Mortal], object]) -> Run:
    """Return an operation that does this, and then gives its promise."""

    def run(work: Mortal, promise: Promise) -> None:
        act(work)
        promise.keep(work)

    return run


def write_and_sync(work: Mortal, promise: Promise, fh: int, mode: int | None = None) -> None:
    """Write to the handle's file; the promise is given once fsync returns."""
    with work.closing(fh):
        work.vfs.write(fh, NEW, 0)
        if mode is not None:
            work.vfs.chmod("dir/file", mode)
        work.vfs.fsync(fh)
        promise.keep(work)


def save(work: Mortal, promise: Promise, mode: int | None = None) -> None:
    write_and_sync(work, promise, work.vfs.open("dir/file", os.O_RDWR).fh, mode)


def make(work: Mortal, promise: Promise) -> None:
    write_and_sync(work, promise, work.vfs.create("dir/file", 0o644, os.O_WRONLY, CALLER).fh)


def truncate_and_write(work: Mortal, promise: Promise) -> None:
    fh = work.vfs.open("dir/file", os.O_WRONLY | os.O_TRUNC).fh
    work.vfs.write(fh, NEW, 0)
    work.vfs.flush(fh)
    promise.keep(work)
    work.vfs.release(fh)


def grow(work: Mortal, promise: Promise, *, sent: bool = False) -> None:
    """Close a new file, append to it, and close it again. `sent`: its save starts before the second close."""
    fh = work.vfs.create("dir/file", 0o644, os.O_WRONLY, CALLER).fh
    work.vfs.write(fh, BEGINNING, 0)
    work.vfs.flush(fh)
    work.vfs.write(fh, NEW[len(BEGINNING) :], len(BEGINNING))
    file = work.state.index.file_at("dir/file")
    if sent and file is not None and file.change is not None:
        work.write_back.queue.run_until_finished(file.change)
    work.vfs.flush(fh)
    promise.keep(work)
    work.vfs.release(fh)


def rename_operation(old: str, new: str, unsent: str = "") -> Run:
    """Return a rename, whose promise is given once it returns; then it is due. `unsent`: a file that is written just before."""

    def run(work: Mortal, promise: Promise) -> None:
        if unsent:
            work.write(unsent, NEW)
        work.vfs.rename(old, new)
        promise.keep(work)
        # Makes it due at once, as a caller that waits for it does.
        work.vfs.flush_all(None, 0.0, None)

    return run


rename_over = rename_operation("dir/draft", "dir/file")
unlink = with_promise(lambda work: work.vfs.unlink("dir/file"))


def while_open(run: Run) -> Run:
    """Return the same operation while the file is open."""

    def run_open(work: Mortal, promise: Promise) -> None:
        fh = work.vfs.open("dir/file", os.O_RDWR).fh
        run(work, promise)
        work.vfs.release(fh)

    return run_open


def wait_until_reached(work: Mortal, request: str) -> None:
    """Wait until a save has reached `request`; if answers are lost, or it is refused, it may end without that."""

    def there() -> bool:
        changes = list(work.state.changes.values())
        refused = any(file.refused for file in work.state.backlog().files) or any(
            isinstance(change.error, (*REFUSALS, FsError)) for change in changes
        )
        return work.boundaries.dead or request in work.boundaries.passed or refused or work.at_rest()

    eventually(there, work.unrest)


def unlink_while_saved(request: str, flags: int | None = os.O_RDWR, path: str = "dir/file") -> Run:
    """Return an unlink of a file whose save has reached `request`, if one is named; without `flags` the file is new."""

    def act(work: Mortal) -> None:
        work.write(path, NEW, flags=flags)
        if request:
            wait_until_reached(work, request)
        work.vfs.unlink(path)

    return with_promise(act)


def knows_rejection(work: Mortal) -> None:
    """Let this mount see the server reject a create at an existing path (R9)."""
    work.write_back.uploader.probe_creates("dir/file")
    assert work.write_back.context.server.facts.rejects.get(Kind.FILE)
    eventually(work.at_rest)


def saved_before(work: Mortal) -> None:
    work.write("dir/file", NEW, fsync=True)
    work.settle()


def unsent(**saves: bytes) -> Callable[[Mortal], None]:
    """Return a preparation: files in `dir` have saves that are on the disk, and not sent."""

    def prepare(work: Mortal) -> None:
        work.write_back.queue.delay = 30.0
        for name, content in saves.items():
            work.write(f"dir/{name}", content)
        work.state.store.sync()

    return prepare


def unlink_begun(work: Mortal, promise: Promise) -> None:
    """Unlink the file when its save has started, and has no row yet."""
    replace, go = work.write_back.replacer, threading.Event()
    run = replace.run_change

    def run_late(change: Change) -> None:
        go.wait(10)
        run(change)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replace, "run_change", run_late)
        (change,) = work.state.changes.values()
        work.write_back.queue.add_change(change, 0.0)
        eventually(lambda: change.started)
        try:
            unlink(work, promise)
        finally:
            go.set()


def reads_both(work: Mortal) -> None:
    work.read("dir/draft")
    work.read("dir/file")


FILE: Tree = {"dir/file": OLD}
EDITED: Tree = {"dir/file": NEW}
BEGUN: tuple[Tree, ...] = ({}, {"dir/file": BEGINNING})
CHANGED: Tree = {"dir/file": NEW + OLD[len(NEW) :]}
BOTH: Tree = {"dir/file": OLD, "dir/draft": NEW}
UNSENT_BOTH: Tree = {"dir/file": NEW, "dir/draft": DRAFT}
DRAFTED: Tree = {"dir/file": DRAFT}
LATER: dict[str, Any] = {"durable": False, "options": {"write_back_delay": 30.0}}

OPERATIONS = [
    Operation("save in place", save, CHANGED, sends=4),
    Operation("new file", make, EDITED, seed={}, sends=2),
    Operation("new file, at once", make, EDITED, prepare=knows_rejection, seed={}),
    Operation(
        "unlink while it is created at once",
        unlink_while_saved("before create_file", None), {}, ({}, EDITED), prepare=knows_rejection, seed={}, durable=False,
    ),
    Operation("grow after a close", grow, EDITED, BEGUN, seed={}, durable=False, sends=2),
    Operation("grow while it is sent", partial(grow, sent=True), EDITED, BEGUN, seed={}, durable=False, sends=5),
    Operation("truncate and write", truncate_and_write, EDITED, durable=False, sends=4),
    Operation("rename over", rename_over, EDITED, prepare=reads_both, seed=BOTH, sends=3),
    Operation("rename over an open file", while_open(rename_over), EDITED, prepare=reads_both, seed=BOTH, sends=3),
    Operation("mkdir", with_promise(lambda work: work.mkdir("dir/made")), {"dir/made": None}, seed={}, sends=2),
    Operation("unlink of a saved file", unlink, {}, (EDITED,), prepare=saved_before),
    Operation(
        "unlink while it is staged", unlink_while_saved("before create_file"), {}, (FILE, EDITED), durable=False
    ),
    Operation("unlink while it is placed", unlink_while_saved("after update"), {}, (FILE, EDITED), durable=False, sends=4),
    Operation(
        "rename of a directory with an unsent file in it",
        rename_operation("box", "moved", unsent="box/file"),
        {"moved": None, "moved/file": NEW},
        tuple({place: None, f"{place}/file": content} for place in ("box", "moved") for content in (OLD, NEW)),
        seed={"box/file": OLD},
        sends=4, **LATER,
    ),
    Operation(
        "unlink of an unsent file",
        unlink_while_saved("", None, "dir/made"), FILE, (FILE, {**FILE, "dir/made": NEW}), sends=0, **LATER,
    ),
    Operation("chmod of a changed file", partial(save, mode=0o444), CHANGED, sends=4),
]  # fmt: skip
#: On a file whose save is not sent, but is synced before the process can be stopped: not for losses of power.
ON_UNSENT = [
    Operation("unlink of an unsent save", unlink, {}, (EDITED,), prepare=unsent(file=NEW)),
    Operation("unlink of a save that has just begun", unlink_begun, {}, (EDITED,), prepare=unsent(file=NEW)),
    Operation("unlink of an open file with an unsent save", while_open(unlink), {}, (EDITED,), prepare=unsent(file=NEW)),
    Operation(
        "rename over an unsent save",
        rename_over, DRAFTED, (UNSENT_BOTH,), prepare=unsent(file=NEW), seed={**FILE, "dir/draft": DRAFT}, sends=3,
    ),
    Operation(
        "rename of an unsent file over an unsent save",
        rename_over, DRAFTED, (UNSENT_BOTH,), prepare=unsent(file=NEW, draft=DRAFT), durable=False, sends=3,
    ),
    Operation(
        "rename of an unsent file over an unsent one",
        rename_over, DRAFTED, (UNSENT_BOTH,), prepare=unsent(file=NEW, draft=DRAFT), seed={}, durable=False, sends=2,
    ),
    Operation(
        "rename of an unsent file over an open one",
        while_open(rename_over), DRAFTED, ({**FILE, "dir/draft": DRAFT},), prepare=unsent(draft=DRAFT), durable=False, sends=3,
    ),
]  # fmt: skip
#: Those that set an item aside.
REPLACING = [
    each
    for each in OPERATIONS
    if each.name.startswith(
        ("save in place", "truncate", "rename over", "unlink while it is placed", "chmod")
    )
]
