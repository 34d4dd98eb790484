"""Programs that use files while watchers get events for the job's changes of them (vfs/semantics.md 7)."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import termios
from contextlib import AbstractContextManager

import pytest
from tests.support.mounts import MountedJob
from tests.support.waiting import PATIENCE, eventually, readable
from tests.support.watching import INOTIFYWAIT, Watcher, watching

from jobfs.emulator import Server

#: Maps a file, says so, and reads its last byte on request.
MAPPING = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
    print("mapped", flush=True)
    sys.stdin.readline()
    print(len(pages), chr(pages[-1]), len(file.read()))
"""


def events(mounted: MountedJob, directory: str = "a") -> AbstractContextManager[Watcher]:
    """A program that says the events of a directory, from now on."""
    return watching(mounted.home / "events", mounted.path, *INOTIFYWAIT, mounted.path / directory)


def helper_of(mounted: MountedJob) -> int:
    """The process that makes the calls of the events."""
    assert mounted.process is not None
    words = ["pgrep", "-P", str(mounted.process.pid), "-f", "jobfs/fuse/event_helper.py"]
    (helper,) = map(int, subprocess.run(words, check=True, capture_output=True).stdout.split())
    return helper


def unread(process: int) -> int:
    """How many bytes wait for a process at its standard input."""
    with open(f"/proc/{process}/fd/0", "rb") as pipe:
        return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_new_file_at_the_old_name_of_a_pending_rename_event_stays(
    server: Server, mounted: MountedJob
) -> None:
    """vfs/semantics.md 7.3."""
    server.store.seed({"a/old": "theirs", "a/first": "1"}, age=60)
    old, new = mounted.path / "a/old", mounted.path / "a/new"
    assert old.read_text() == "theirs"
    with events(mounted) as watcher:
        server.store.write("a/first", "2")
        eventually(lambda: "MODIFY a/first" in watcher.lines)
        helper = helper_of(mounted)
        os.kill(helper, signal.SIGSTOP)
        try:
            server.store.move("a/old", "a/new")
            eventually(lambda: unread(helper), "the event of the rename is pending")
            mine = os.open(old, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        finally:
            os.kill(helper, signal.SIGCONT)
        try:
            eventually(lambda: {"CREATE a/new", "MOVED_TO a/new"} & {*watcher.lines})
            os.fchmod(mine, 0o600)
            os.write(mine, b"mine")
        finally:
            os.close(mine)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (old, new)}
        assert modes == {"old": 0o600, "new": 0o644}
        assert (old.read_text(), new.read_text()) == ("mine", "theirs")
        assert "DELETE a/old" not in watcher.lines


def test_a_file_that_the_job_wrote_and_renamed_has_its_new_bytes(server: Server, mounted: MountedJob) -> None:
    """A program has read it before the job wrote it, and again before the event of its new name."""
    server.store.seed({"a/part": "old\n"}, age=60)
    part, whole = mounted.path / "a/part", mounted.path / "a/whole"
    assert part.read_text() == "old\n"
    with events(mounted) as watcher:
        server.store.write("a/part", "new\n")
        server.store.move("a/part", "a/whole")
        eventually(whole.exists)
        assert whole.read_text() == "new\n"
        eventually(lambda: "MOVED_TO a/whole" in watcher.lines)
        assert whole.read_text() == "new\n"


@pytest.mark.parametrize("gone", ["delete", "rename"])
def test_a_mapped_file_keeps_its_length_after_the_job_shortens_it(
    server: Server, mounted: MountedJob, gone: str
) -> None:
    server.store.seed({"a/long": "x" * 50_000}, age=60)
    command = [sys.executable, "-c", MAPPING, str(mounted.path / "a/long")]
    pipe = subprocess.PIPE
    with events(mounted) as watcher, subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "mapped\n"
        server.store.write("a/long", "short")
        eventually(lambda: "MODIFY a/long" in watcher.lines)
        if gone == "delete":
            server.store.delete("a/long")
        else:
            server.store.move("a/long", "a/elsewhere")
        eventually(lambda: "DELETE a/long" in watcher.lines)
        assert reader.communicate("\n", timeout=20)[0] == "50000 x 50000\n"
        assert reader.returncode == 0


def test_a_killed_helper_loses_no_other_event(server: Server, mounted: MountedJob) -> None:
    server.store.seed({"a/first": "1"}, age=60)
    made = {f"CREATE a/{number:03}" for number in range(500)}
    with events(mounted) as watcher:
        server.store.seed({f"a/{number:03}": "1" for number in range(500)})
        eventually(lambda: made & {*watcher.lines})
        assert mounted.process is not None
        subprocess.run(
            ["pkill", "-KILL", "-P", str(mounted.process.pid), "-f", "jobfs/fuse/event_helper.py"], check=True
        )
        # That of the call under way may be lost.
        eventually(lambda: len(made & {*watcher.lines}) >= len(made) - 1)


def test_a_killed_mount_leaves_no_helper_even_a_stopped_one(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 7."""
    server.store.seed({"a/first": "1"}, age=60)
    with events(mounted) as watcher:
        server.store.seed({"a/second": "1"})
        eventually(lambda: "CREATE a/second" in watcher.lines)
    helper = helper_of(mounted)
    with os.fdopen(os.pidfd_open(helper)) as ended:
        os.kill(helper, signal.SIGSTOP)
        mounted.kill()
        assert readable(ended, PATIENCE)
