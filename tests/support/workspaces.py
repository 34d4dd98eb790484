"""The Vfs against the local server, without libfuse: the work of a mount, in this process."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobfs.api.access import fixed_key
from jobfs.cli import graph
from jobfs.emulator import Server
from jobfs.errors import FsError, JobfsError
from jobfs.settings import Settings
from jobfs.state import File
from jobfs.state import directory as directories
from jobfs.vfs import Caller, Vfs

from .files import errno_from
from .mounts import QUICK
from .serverside import check_tree, hidden, visible
from .waiting import eventually, eventually_equal

CALLER = Caller(os.getuid(), os.getgid(), os.getpid())


class Workspace:
    """A Vfs with its own directories; `start` and `stop` do what a mount and an unmount do."""

    def __init__(self, server: Server, home: Path, **options: Any) -> None:
        self.server = server
        self.home = home
        quick = {name.replace("-", "_"): value for name, value in QUICK.items()}
        places = {"cache_dir": home / "cache", "state_dir": home / "state", "base_url": server.url}
        self.settings = Settings(**{**quick, **places, **options})
        self.running = False

    def start(self) -> None:
        home, server = self.home, self.server
        self._slot = directories.acquire_state_directory(
            self.settings.state_dir, server.job, str(home / "mnt"), server.url
        )
        try:
            self._graph = graph.build_mount(self.settings, server.job, self._slot, fixed_key(server.key))
            self.vfs: Vfs = self._graph.vfs
            self.vfs.start()
        except BaseException:
            self._slot.close()
            raise
        self.write_back = self.vfs._write_back
        self.state = self.write_back.state
        self.running = True

    @property
    def mount_id(self) -> str:
        """Return the id in the hidden names of this workspace."""
        return self._slot.mount_id

    @property
    def state_directory(self) -> Path:
        """Return the directory of this mount's journal and local bytes."""
        return self._slot.path

    def stop(self) -> None:
        if self.running:
            self.running = False
            self.vfs.stop()
            self._graph.close()
            self._slot.close()

    def remount(self) -> None:
        """Stop and start again."""
        self.stop()
        self.start()

    def read(self, path: str, size: int = -1, offset: int = 0) -> bytes:
        """Return the bytes of a file, read in pieces of at most 128 KiB as the kernel does."""
        with self.opening(path, os.O_RDONLY) as fh:
            data = b""
            while size < 0 or len(data) < size:
                piece = self.vfs.read(
                    fh, min(131_072, size - len(data) if size >= 0 else 131_072), offset + len(data)
                )
                if not piece:
                    break
                data += piece
            return data

    def write(self, path: str, content: bytes, *, fsync: bool = False, flags: int | None = None) -> None:
        """Write a whole file: open or create, write, close. With `flags`, open the existing file with them."""
        with self.closing(self.opened(path) if flags is None else self.vfs.open(path, flags).fh) as fh:
            self.vfs.write(fh, content, 0)
            if fsync:
                self.vfs.fsync(fh)

    def open(self, path: str, flags: int) -> int:
        """Return a handle of an existing file."""
        return self.vfs.open(path, flags, CALLER.pid).fh

    @contextmanager
    def opening(self, path: str, flags: int = os.O_RDWR) -> Iterator[int]:
        """Open an existing file for the block, and close it afterwards."""
        with self.closing(self.open(path, flags)) as fh:
            yield fh

    @contextmanager
    def closing(self, fh: int) -> Iterator[int]:
        """Close a handle after the block, as the kernel does; after an error without a flush."""
        try:
            yield fh
            self.vfs.flush(fh)
        finally:
            self.vfs.release(fh)

    def opened(self, path: str) -> int:
        """Return a handle for overwriting a file, as open(path, "w") gets it through the kernel."""
        if self.exists(path):
            fh = self.vfs.open(path, os.O_RDWR).fh
            self.vfs.ftruncate(fh, 0)
            return fh
        return self.vfs.create(path, 0o644, os.O_RDWR | os.O_CREAT, CALLER).fh

    def exists(self, path: str) -> bool:
        if (failed := errno_from(self.vfs.getattr, path)) not in (0, errno.ENOENT):
            raise FsError(failed)
        return not failed

    def names(self, path: str = "") -> list[str]:
        return sorted(name for name, _ in self.vfs.listdir(path))

    def tree(self, directory: str = "") -> dict[str, bytes | None]:
        """Return path and bytes (None: a directory) of everything that the mount shows below a directory."""
        found: dict[str, bytes | None] = {}
        for name, attr in self.vfs.listdir(directory):
            path = f"{directory}/{name}".lstrip("/")
            found |= {path: None, **self.tree(path)} if stat.S_ISDIR(attr.mode) else {path: self.read(path)}
        return found

    def mkdir(self, path: str) -> None:
        self.vfs.mkdir(path, 0o755, CALLER)

    def drain(self) -> None:
        """Send everything unsent. Raises AssertionError if anything is left."""
        left = self.vfs.flush_all(None, 20, None)
        assert not left, left


#: A function that starts a workspace with options, another one at each call.
Start = Callable[..., Workspace]


def wait_until_settled(work: Workspace, tree: Mapping[str, bytes | None] | None = None) -> None:
    """Wait until everything is sent and nothing hidden is left; then check that the server has this tree.

    Only a listing reveals the leftover of a create whose answer was lost.
    """
    work.drain()
    eventually(
        lambda: work.names() is not None and not hidden(work.server), lambda: f"hidden: {hidden(work.server)}"
    )
    check_tree(work.server, tree)


def let_time_pass(work: Workspace, seconds: float) -> None:
    """Let so many seconds pass on the server's clock, which the workspace learns from the `Date` of an answer."""
    work.server.set(clock_skew=work.server.behaviour.clock_skew + seconds)
    work.write_back.client.get_instance()


def check_shown(work: Workspace) -> None:
    """Wait until the mount shows what the server has; a file that is only just gone can't be read."""

    def shown() -> object:
        try:
            return work.tree()
        except JobfsError as error:
            return error

    eventually_equal(shown, visible(work.server))


@contextmanager
def workspace(server: Server, home: Path, **options: Any) -> Iterator[Workspace]:
    """Start a workspace for the block."""
    work = Workspace(server, home, **options)
    work.start()
    try:
        yield work
    finally:
        server.faults.clear()
        work.stop()


class OvertakenLock:
    """The lock of a File, in place of its own: `act` comes first when this thread takes it for the nth time, while it is free.

    So does what another thread does that takes the lock just before.
    """

    def __init__(self, file: File, act: Callable[[], object], nth: int = 1) -> None:
        self._lock, self._act, self._left, self._held = file.lock, act, nth, 0
        self._thread = threading.get_ident()
        file.lock = self  # type: ignore[assignment]

    @property
    def struck(self) -> bool:
        """True once `act` was called."""
        return self._left <= 0

    def __enter__(self) -> None:
        if self._is_mine and not self._held:
            self._left -= 1
            if not self._left:
                self._act()
        self._lock.acquire()
        self._held += self._is_mine

    def __exit__(self, *_: object) -> None:
        self._held -= self._is_mine
        self._lock.release()

    @property
    def _is_mine(self) -> bool:
        return threading.get_ident() == self._thread
