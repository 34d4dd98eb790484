"""A mount without a mount: the driver on a Vfs in memory, libfuse on a socket, and a test in the place of the kernel."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.vfs.world import World

pytest.importorskip("fuse", exc_type=ImportError)

from jobfs.fuse import loop
from jobfs.fuse.driver import FuseDriver
from jobfs.fuse.loop import LoopPool, Session

from .kernel import Kernel, SocketMount

#: Seconds for which the kernel may keep what it gets.
VALID = 5.0


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[SocketMount]:
    mount = SocketMount()
    monkeypatch.setattr(loop, "_fuse_setup", mount.fuse_setup)
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
