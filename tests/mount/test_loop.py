"""The loop pool is sound: a real mount served by it, under load, ended in every way that there is."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from jobfs import control
from jobfs.fuse.loop import IDLE_THREADS
from jobfs.mountpoint import unmount
from jobfs.state import directory as slot

ROOT = Path(__file__).parents[2]
#: What a program may see while its mount goes away.
ENDED = {errno.EXDEV, errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT, errno.EIO, errno.EBADF, errno.ENODEV}


class LoopProcess:
    """A mount in a process of its own."""

    def __init__(self, home: Path, *flags: str) -> None:
        self.path, self.state = home / "mnt", home / "state"
        self.path.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mount.loop_process", str(self.path), str(self.state), *flags],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.line().partition(";")[0] == "mounted"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def release(self) -> None:
        (self.state / "release").touch()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 30) -> tuple[int, Counter[str], str]:
        """The exit code, what was called, what was said."""
        out, err = self.process.communicate(timeout=timeout)
        last = out.strip().splitlines()[-1:] or ["{}"]
        return self.process.returncode, Counter(json.loads(last[0])), err

    def away(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        with suppress(Exception):
            unmount(str(self.path), lazy=True)


class Load:
    """Threads that write, read and compare files of their own until they are stopped or the mount ends."""

    def __init__(self, directory: Path, threads: int = 12) -> None:
        self.rounds = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(directory, n)) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def _work(self, directory: Path, number: int) -> None:
        path, turn = directory / f"file{number}", 0
        while not self._stop.is_set():
            turn += 1
            content = f"{number}:{turn};".encode() * 4000
            try:
                path.write_bytes(content)
                read = path.read_bytes()
                size = os.stat(path).st_size
                os.rename(path, f"{path}.moved")
                os.rename(f"{path}.moved", path)
                os.listdir(directory)
            except OSError as error:
                if error.errno not in ENDED:
                    self.wrong.append(repr(error))
                return
            if not os.path.ismount(directory):
                return
            if read != content or size != len(content):
                self.wrong.append(f"{path}: {len(read)} bytes read, {size} shown")
            self.rounds += 1

    def going(self) -> None:
        """Return when every thread had time for a few rounds."""
        end = time.monotonic() + 30
        while self.rounds < 3 * len(self._threads):
            assert time.monotonic() < end, self.wrong
            time.sleep(0.005)

    def ended(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        assert self.wrong == []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LoopProcess]]:
    started: list[LoopProcess] = []

    def start(*flags: str) -> LoopProcess:
        started.append(LoopProcess(tmp_path, *flags))
        return started[-1]

    yield start
    for process in started:
        process.release()
        process.away()


def test_who_only_reads_a_file_is_not_heard_of_again_until_it_is_closed(
    start: Callable[..., LoopProcess],
) -> None:
    """A kernel before 5.16 tells of it all the same."""
    loop = start()
    (loop.path / "read").write_bytes(b"content")
    for _ in range(3):
        assert (loop.path / "read").read_bytes() == b"content"
    loop.signal(signal.SIGTERM)
    _, calls, _ = loop.end()
    kernel = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    assert calls["release"] in (3, 4), (
        "the kernel tells of the last one when it has time, if that is before the end"
    )
    assert calls["flush"] == (1 if kernel >= (5, 16) else 4)


def test_the_attributes_of_what_is_listed_come_with_the_listing(start: Callable[..., LoopProcess]) -> None:
    """vfs/semantics.md 2: `ls -l` of many files is a few requests of the kernel, not one for each file."""
    loop = start("--ttl=5")
    with os.scandir(loop.path / "many") as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    assert sizes == {**{f"file{number}": number for number in range(300)}, "to-be-asked-for": 1}
    loop.signal(signal.SIGTERM)
    _, calls, _ = loop.end()
    assert calls["looked_up"] == 301
    assert calls["getattr"] < 30


@pytest.mark.parametrize(("file", "number"), [("blocked", 3 * IDLE_THREADS), ("blocked-in-silence", 3)])
def test_calls_that_wait_do_not_stop_others(
    start: Callable[..., LoopProcess], file: str, number: int
) -> None:
    """What waits without a word (the disk, say) is found out at the next look; SIGINT ends a mount as SIGTERM does."""
    loop = start()
    waiting = [_reader(loop.path / file) for _ in range(number)]
    eventually(lambda: (loop.path / "plain").read_bytes() == b"at once")
    load = Load(loop.path, 4)
    load.going()
    load.ended()
    (loop.state / "closed").unlink(missing_ok=True)
    loop.release()
    assert [process.wait(30) for process in waiting] == [0] * len(waiting)
    # What programs let go of as they end, the kernel tells in the background, and not any more once it is unmounted.
    eventually(lambda: (loop.state / "closed").exists())
    loop.signal(signal.SIGINT)
    code, calls, said = loop.end()
    assert (code, said) == (0, "")
    assert calls["release"] == calls["open"] + calls["create"]
    assert not os.path.ismount(loop.path)


def test_who_hangs_up_while_umount_drains_keeps_the_mount(start: Callable[..., LoopProcess]) -> None:
    loop = start("undrained")
    (found,) = slot.running(loop.state)
    with socket.socket(socket.AF_UNIX) as connection:
        with control._address(found.path) as address:
            connection.connect(address)
        connection.sendall(b'{"call": "umount"}\n')
        assert loop.line() == "draining"
    assert control.call(found.path, "flush", {"timeout": 0.0}) == {"left": ["unsent.txt"]}
    assert os.path.ismount(loop.path)
    assert (loop.path / "plain").read_bytes() == b"at once"


def _reader(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["cat", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
