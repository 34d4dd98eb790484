"""A mount without a mount: the driver on a Vfs in memory, libfuse on a socket, and a test in the place of the kernel."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import eventually
from tests.unit.vfs.world import World

pytest.importorskip("fuse", exc_type=ImportError)

from jobfs.fuse.driver import FuseDriver
from jobfs.fuse.events import HelperCall
from jobfs.fuse.loop import LoopPool, Session
from jobfs.fuse.requests import Opcode
from jobfs.fuse.sizes import KernelSizes
from jobfs.nodes import Attr
from jobfs.vfs import Vfs

from .kernel import Kernel, SocketMount

Hooks = dict[str, Callable[..., object]]
#: Seconds for which the kernel may keep what it gets.
VALID = 5.0


@pytest.fixture
def mount() -> Iterator[SocketMount]:
    with closing(SocketMount()) as mount:
        yield mount


class HookedVfs(Vfs):
    """Calls the hook of an operation, if there is one, before it does the operation; of a release, after it."""

    def __init__(self, hooks: Hooks, *parts: Any) -> None:
        super().__init__(*parts)
        self._hooks = hooks

    def _enter(self, operation: str, *arguments: object) -> None:
        if operation in self._hooks:
            self._hooks[operation](*arguments)

    def statfs(self) -> dict[str, int]:
        self._enter("statfs")
        return super().statfs()

    def getattr(self, path: str) -> Attr:
        self._enter("getattr", path)
        return super().getattr(path)

    def fgetattr(self, fh: int) -> Attr:
        self._enter("fgetattr", fh)
        return super().fgetattr(fh)

    def release(self, fh: int) -> None:
        super().release(fh)
        self._enter("release")


@pytest.fixture
def hooks() -> Hooks:
    """What a test does before an operation of the Vfs, by the operation's name."""
    return {}


@pytest.fixture
def world(tmp_path: Path, hooks: Hooks) -> Iterator[World]:
    """Two files and a directory, as the last listing has shown them."""
    with closing(World(tmp_path, vfs_type=partial(HookedVfs, hooks), local_symlinks=True)) as world:
        world.seed({"file": b"old", "other": b"another", "dir": None})
        yield world


@pytest.fixture
def driver(world: World) -> FuseDriver:
    return FuseDriver(world.vfs)


@pytest.fixture
def sizes(driver: FuseDriver) -> KernelSizes:
    return driver.kernel_sizes


@pytest.fixture
def session(mount: SocketMount, driver: FuseDriver) -> Iterator[Session]:
    valid = [f"{what}_timeout={VALID}" for what in ("attr", "entry")]
    session = Session(driver, "/mnt", ["use_ino", "hard_remove", *valid, "negative_timeout=0"], mount.calls)
    yield session
    session.close()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # fuse_teardown restores the default


@pytest.fixture
def ends() -> list[int]:
    """The number 1 for each time that the end of the mount was reported."""
    return []


@pytest.fixture
def pool(session: Session, mount: SocketMount, ends: list[int]) -> Iterator[LoopPool]:
    pool = LoopPool(session, lambda: ends.append(1))
    pool.start()
    yield pool
    mount.unmount()
    assert pool.join(20)


@pytest.fixture
def kernel(pool: LoopPool, mount: SocketMount) -> Kernel:
    mount.kernel.init()
    return mount.kernel


class Helper:
    """The real helper, stopped so that it makes no requests: a test makes them as its thread (`pid`)."""

    def __init__(self, driver: FuseDriver, place: Path) -> None:
        self._injector = driver.injector
        self._injector.mount = (str(place), place.stat().st_dev)
        self._injector.patience = 60.0
        assert self._injector.inject(HelperCall("close", "none")) == errno.ENOENT
        (self.pid,) = self._injector.helpers
        os.kill(self.pid, signal.SIGSTOP)

    def begin(self, call: HelperCall, **previous: Attr) -> None:
        """Begin a call; `previous`: attributes from before the change that it is about."""
        self._injector.previous_attrs = previous
        threading.Thread(target=self._injector.inject, args=(call,)).start()
        eventually(lambda: any(map(self._injector.expects_request, Opcode)))

    def close(self) -> None:
        self._injector.close()


@pytest.fixture
def helper(driver: FuseDriver, tmp_path: Path) -> Iterator[Helper]:
    with closing(Helper(driver, tmp_path)) as helper:
        yield helper
