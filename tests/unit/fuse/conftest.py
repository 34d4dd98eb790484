"""A mount without a mount: the driver on a Vfs in memory, libfuse on a socket, and a test in the place of the kernel."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.waiting import eventually
from tests.unit.vfs.world import World

pytest.importorskip("fuse", exc_type=ImportError)

from jobfs.fuse import loop
from jobfs.fuse.driver import FuseDriver
from jobfs.fuse.events import HelperCall
from jobfs.fuse.loop import LoopPool, Session
from jobfs.fuse.requests import Opcode
from jobfs.nodes import Attr

from .kernel import Kernel, SocketMount

#: Seconds for which the kernel may keep what it gets.
VALID = 5.0


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[SocketMount]:
    mount = SocketMount()
    prototype = type(loop._fuse_setup)
    monkeypatch.setattr(loop, "_fuse_setup", prototype(mount.fuse_setup))
    monkeypatch.setattr(os, "readv", mount.readv)
    yield mount
    mount.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, local_symlinks=True)
    yield world
    world.close()


@pytest.fixture
def shown(world: World) -> World:
    """Two files and a directory, as the last listing has shown them."""
    world.seed({"file": b"old", "other": b"another", "dir": None})
    return world


@pytest.fixture
def driver(world: World) -> FuseDriver:
    return FuseDriver(world.vfs)


@pytest.fixture
def session(mount: SocketMount, driver: FuseDriver) -> Iterator[Session]:
    options = [
        "use_ino",
        "hard_remove",
        f"attr_timeout={VALID}",
        f"entry_timeout={VALID}",
        "negative_timeout=0",
    ]
    session = Session(driver, "/mnt", options)
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
    helper = Helper(driver, tmp_path)
    yield helper
    helper.close()
