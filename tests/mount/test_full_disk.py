"""The disk under the state directory is full, read-only or gone: writers get an error at once, acknowledged bytes are kept."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.mounts import Mount, is_mounted
from tests.support.serverside import visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

SIZE = 12 << 20

pytestmark = pytest.mark.needs_root("only root can mount a disk of its own for this")


class Disk:
    """A small disk of its own, mounted at the directory that the mount keeps its state in."""

    def __init__(self, directory: Path, image: Path, size: int = SIZE) -> None:
        self.directory, self._image = directory, image
        directory.mkdir(parents=True)
        with image.open("wb") as file:
            file.truncate(size)
        self._run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image)
        self.mount()

    @staticmethod
    def _run(*command: str | Path) -> str:
        return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout

    def mount(self) -> None:
        self._run("mount", "-o", "loop", self._image, self.directory)

    def fill(self) -> None:
        """Leaves not one free block."""
        with (self.directory / "ballast").open("ab", buffering=0) as file:
            for size in (65536, 1024):
                while not errno_from(file.write, b"x" * size):
                    pass

    def empty(self) -> None:
        (self.directory / "ballast").unlink()

    def fail(self) -> None:
        """As the kernel does when a disk makes errors: read-only from now on."""
        os.sync()
        self._run("mount", "-o", "remount,abort", self.directory)

    def replace(self) -> None:
        """The same disk, well again, once nothing has a file of the failed one open."""
        self.remove()
        eventually(lambda: not self._run("losetup", "-j", self._image))
        self.mount()

    def remove(self) -> None:
        """As a stick that is pulled out: the path leads nowhere any more."""
        self._run("umount", "-l", self.directory)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "home0/.local/state/jobfs", tmp_path / "disk")
    yield disk
    while is_mounted(disk.directory):
        disk.remove()


@pytest.mark.parametrize("again", ["mount", "recover"])
def test_acknowledged_bytes_are_sent_from_a_completely_full_disk(
    server: Server, disk: Disk, mount: Mount, again: str
) -> None:
    """vfs/semantics.md 4.41: records of past events use the reserved space; unlink works; a mount starts."""
    server.store.seed({f"old{n}": f"old content {n}" for n in range(20)}, age=60)
    mounted = mount(write_back_delay=0.1, timeout=5)
    sorted(mounted.path.iterdir())
    server.faults.set_rate("unavailable", 1.0, on="create")
    expected: dict[str, bytes | None] = {}
    for number in range(20):
        content = b"%d" % number * 1000
        (mounted.path / f"old{number}").write_bytes(content)
        (mounted.path / f"new{number}").write_bytes(content)
        expected |= {f"old{number}": content, f"new{number}": content}
    disk.fill()
    os.unlink(mounted.path / "new0")
    os.unlink(mounted.path / "old0")
    disk.fill()
    assert errno_from((mounted.path / "more").write_bytes, b"x" * 10_000) == errno.ENOSPC
    del expected["new0"], expected["old0"]
    mounted.kill()
    disk.fill()
    server.faults.clear()
    if again == "mount":
        mounted.mount(write_back_delay=0)
        mounted.wait_until_settled()
    else:
        places = ("--base-url", server.url, "--state-dir", mounted.state, "--cache-dir", mounted.cache)
        done = mounted.jobfs("recover", server.job, *places, "--request-lifetime", "0.2")
        assert done.returncode == 0, done.stderr
    assert visible(server) == expected
    assert not list(mounted.state.glob("*/*/bytes/*"))


def test_a_failing_disk_is_reported_at_once_and_reads_work(server: Server, disk: Disk, mount: Mount) -> None:
    """vfs/semantics.md 4: EROFS or EIO to the writer at write or close, never later; what was acknowledged stays."""
    server.store.seed({"old.txt": "old content"}, age=60)
    mounted = mount(write_back_delay=30)
    (mounted.path / "kept.txt").write_bytes(b"acknowledged")
    disk.fail()
    for name in ("new.txt", "old.txt", "kept.txt"):
        assert errno_from((mounted.path / name).write_bytes, b"x") in (errno.EROFS, errno.EIO)
    assert (mounted.path / "old.txt").read_bytes() == b"old content"
    assert (mounted.path / "kept.txt").read_bytes() == b"acknowledged"
    mounted.kill()
    disk.replace()
    mounted.mount(write_back_delay=0)
    (mounted.path / "new.txt").write_bytes(b"goes on")
    mounted.wait_until_settled(
        {"kept.txt": b"acknowledged", "old.txt": b"old content", "new.txt": b"goes on"}
    )
