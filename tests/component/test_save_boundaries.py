"""Killed at any instant, or with any answer lost: the target is the old or the new whole, and nothing else has changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.support.boundaries import Boundaries, Death, Mortal, quick_finishing
from tests.support.files import errno_from
from tests.support.serverside import doubled, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER

from jobfs.emulator import Server
from jobfs.errors import JobfsError

Tree = dict[str, bytes | None]

OLD, NEW = b"the old content", b"what the user has written instead"
OTHERS: Tree = {"dir": None, "dir/other": b"untouched"}


@dataclass
class Promise:
    """What the operation has told its caller by now."""

    kept: bool = False


@dataclass(frozen=True)
class Operation:
    """`run` does it; afterwards the tree is one of `before`, or `after`, which it is once the promise was given."""

    name: str
    run: Callable[[Mortal, Promise], None]
    before: tuple[Tree, ...]
    after: Tree
    prepare: Callable[[Mortal], object] = lambda work: None
    seed: Tree = field(default_factory=lambda: {"dir/file": OLD})

    def start(self, server: Server, home: Path, boundaries: Boundaries, **options: object) -> Mortal:
        server.reset()
        server.store.seed({**OTHERS, **self.seed}, age=60)
        work = Mortal(server, home, boundaries, **options)
        work.start()
        self.prepare(work)
        return work

    def check(self, work: Mortal, promise: Promise, where: str) -> None:
        """The server's tree and the mount's are the old one or the new one, whole."""
        server = work.server
        tree = visible(server)
        allowed = [self.after] if promise.kept else [*self.before, self.after]
        assert tree in [{**OTHERS, **wanted} for wanted in allowed], f"{self.name}, {where}"
        assert doubled(server) == [], where
        for path, content in tree.items():
            if content is not None:
                assert work.read(path) == content, f"{self.name}, {where}: {path} in the mount"
        listed = sorted(path[4:] for path in tree if path.startswith("dir/"))
        eventually(lambda: work.names("dir") == listed, f"{self.name}, {where}: {listed} in the mount")


def save(work: Mortal, promise: Promise) -> None:
    fh = work.vfs.open("dir/file", os.O_RDWR).fh
    work.vfs.write(fh, NEW, 0)
    work.vfs.fsync(fh)
    promise.kept = True
    work.vfs.release(fh)


def make(work: Mortal, promise: Promise) -> None:
    fh = work.vfs.create("dir/file", 0o644, os.O_WRONLY, CALLER).fh
    work.vfs.write(fh, NEW, 0)
    work.vfs.fsync(fh)
    promise.kept = True
    work.vfs.release(fh)


def truncate_and_write(work: Mortal, promise: Promise) -> None:
    fh = work.vfs.open("dir/file", os.O_WRONLY | os.O_TRUNC).fh
    work.vfs.write(fh, NEW, 0)
    work.vfs.flush(fh)
    promise.kept = True
    work.vfs.release(fh)


def rename_over(work: Mortal, promise: Promise) -> None:
    work.vfs.rename("dir/draft", "dir/file")
    promise.kept = True


def mkdir(work: Mortal, promise: Promise) -> None:
    work.mkdir("dir/made")
    promise.kept = True


def unlink(work: Mortal, promise: Promise) -> None:
    work.vfs.unlink("dir/file")
    promise.kept = True


def unlink_while_saved(request: str) -> Callable[[Mortal, Promise], None]:
    """The file is unlinked when its save has got as far as `request`."""

    def run(work: Mortal, promise: Promise) -> None:
        fh = work.vfs.open("dir/file", os.O_RDWR).fh
        work.vfs.write(fh, NEW, 0)
        work.vfs.flush(fh)
        work.vfs.release(fh)
        eventually(lambda: work.boundaries.dead or request in work.boundaries.passed)
        work.vfs.unlink("dir/file")
        promise.kept = True

    return run


def saved_before(work: Mortal) -> None:
    work.write("dir/file", NEW, fsync=True)
    work.settle()


OPERATIONS = [
    Operation("save in place", save, ({"dir/file": OLD},), {"dir/file": NEW + OLD[len(NEW) :]}),
    Operation("new file", make, ({},), {"dir/file": NEW}, seed={}),
    Operation("truncate and write", truncate_and_write, ({"dir/file": OLD},), {"dir/file": NEW}),
    Operation(
        "rename over",
        rename_over,
        ({"dir/file": OLD, "dir/draft": NEW},),
        {"dir/file": NEW},
        prepare=lambda work: (work.read("dir/draft"), work.read("dir/file")),
        seed={"dir/file": OLD, "dir/draft": NEW},
    ),
    Operation("mkdir", mkdir, ({},), {"dir/made": None}, seed={}),
    Operation("unlink of a saved file", unlink, ({"dir/file": NEW},), {}, prepare=saved_before),
    Operation(
        "unlink while it is staged",
        unlink_while_saved("before create_file"),
        ({"dir/file": OLD}, {"dir/file": NEW}),
        {},
    ),
    Operation(
        "unlink while it is placed",
        unlink_while_saved("after update"),
        ({"dir/file": OLD}, {"dir/file": NEW}),
        {},
    ),
]


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with quick_finishing():
        yield


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_killed_at_any_boundary_it_ends_old_or_new_whole(
    server: Server, tmp_path: Path, operation: Operation
) -> None:
    """semantics 4: killed at any point, the next mount of that job finishes it by looking at what the server has."""
    for at in count(1):
        boundaries, promise = Boundaries(at), Promise()
        work = operation.start(server, tmp_path / f"{at}", boundaries)
        try:
            work.work(lambda work=work, promise=promise: operation.run(work, promise))  # type: ignore[misc]
        finally:
            work.end()
        again = Mortal(server, work.home, Boundaries())
        again.start()
        try:
            again.settle()
            operation.check(again, promise, f"killed at {at}: {boundaries.last} of {boundaries.passed}")
        finally:
            again.end()
        if not boundaries.struck:
            break
    print(f"{operation.name}: killed at {at - 1} boundaries")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("fault", ["drop", "drop_after", "error_after"])
def test_whatever_answer_is_lost_it_ends_right(
    server: Server, tmp_path: Path, operation: Operation, fault: Any
) -> None:
    """semantics 5: a changing request whose answer was lost is never blindly repeated: look at the server first."""
    for skip in count():
        promise = Promise()
        work = operation.start(server, tmp_path / f"{skip}", Boundaries())
        try:
            server.faults.next(fault, on="change", skip=skip)
            failed = errno_from(work.work, lambda work=work, promise=promise: operation.run(work, promise))
            struck = not server.faults.rules()
            server.faults.clear()
            work.settle()
            operation.check(work, promise, f"{fault} after {skip} changes, errno {failed}")
        finally:
            work.end()
        if not struck:
            break
    print(f"{operation.name}, {fault}: at each of {skip} changing requests")


@pytest.mark.parametrize("seed", range(12))
def test_killed_again_while_it_is_taken_up_it_still_ends_right(
    server: Server, tmp_path: Path, seed: int
) -> None:
    """semantics 4: killed at any point, the recovery too."""
    random = Random(seed)
    operation = random.choice(OPERATIONS)
    boundaries, promise = Boundaries(random.randint(2, 30)), Promise()
    work = operation.start(server, tmp_path / "home", boundaries)
    try:
        work.work(lambda: operation.run(work, promise))
    finally:
        work.end()
    deaths = [boundaries.last]
    for _ in range(3):
        again = Mortal(server, work.home, Boundaries(random.randint(1, 12)))
        again.boundaries.arm()
        with suppress(Death, JobfsError):
            again.start()
            again.work(lambda: None)
        deaths.append(again.boundaries.last)
        again.end()
    last = Mortal(server, work.home, Boundaries())
    last.start()
    try:
        last.settle()
        operation.check(last, promise, f"killed at {deaths}")
    finally:
        last.end()
