"""vfs/semantics.md 7: programs that watch a directory of the mount by inotify get events for what the job does in it."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import stat
import subprocess
import sys
import termios
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from tests.support.holders import python
from tests.support.mounts import TTL, Mount, MountedJob, run
from tests.support.waiting import PATIENCE, eventually, readable
from tests.support.watching import INOTIFYWAIT, Watcher, counted, watching

from jobfs.emulator import Server

pytestmark = pytest.mark.needs_program("inotifywait")

#: Seconds: 7.1 says the TTL and two more; three times that on a machine that has other things to do.
SOON = 3 * (TTL + 2)

SEEDS = {
    "grown.txt": "a", "same.txt": "a", "gone.txt": "a", "old.txt": "a", "run.log": "one\n", "tool": "a", "sub/deep/in.txt": "a",
    "away/in.txt": "a", "made/again.txt": "a",
}  # fmt: skip
_WATCHDOG = """
import sys, threading
from watchdog.events import FileSystemEventHandler
from watchdog.observers.inotify import InotifyObserver

class PrintEvents(FileSystemEventHandler):
    def on_any_event(self, event):
        print(event.event_type, event.src_path, *filter(None, [event.dest_path]), flush=True)

observer = InotifyObserver()
observer.schedule(PrintEvents(), sys.argv[1], recursive=True)
observer.start()
threading.Event().wait()
"""


def told_all(server: Server, watcher: Watcher, last: str) -> None:
    """Wait for the events of earlier changes: two listings, and a last change, which follows them."""
    listed = server.log.count("list")
    eventually(lambda: server.log.count("list") >= listed + 2, "it looks each TTL")
    server.job_side(server.job).write(last, "")
    watcher.says({f"CLOSE_WRITE,CLOSE {last}"}, SOON)


@pytest.mark.needs_program("entr")
def test_watchers_see_what_the_job_does(server: Server, mounted: MountedJob, tmp_path: Path) -> None:
    """7.1, 7.3: each in its own words, within the TTL and two seconds; and no event more than twice."""
    job, here = server.job_side(server.job), mounted.path
    job.seed(SEEDS, age=60)
    with ExitStack() as stack:

        def start(*command: str | Path, watches: int = 1, stdin: str = "") -> Watcher:
            output = tmp_path / f"{len(os.listdir(tmp_path))}-{Path(command[0]).name}"
            return stack.enter_context(watching(output, here, *command, watches=watches, stdin=stdin))

        inotifywait = start(*INOTIFYWAIT, here, watches=5)
        watchdog = start(sys.executable, "-c", _WATCHDOG, here, watches=5)
        entr = start("entr", "-n", "-p", "echo", "changed", "/_", stdin="grown.txt\n")
        entr_for_new = start("entr", "-n", "-p", "-d", "true", stdin="grown.txt\n")
        tail = start("tail", "-F", "run.log", watches=0)
        assert (here / "same.txt").read_text() == "a"

        job.seed({"new.txt": "a", "dir/x.txt": "x", "dir/in/y.txt": "y"})
        job.replace("grown.txt", "longer")
        job.write("same.txt", "b")
        job.write("tool", "b")
        job.append("run.log", "two\n")
        job.delete("gone.txt")
        job.move("old.txt", "moved.txt")
        inotifywait.says({
            "CREATE new.txt", "CLOSE_WRITE,CLOSE new.txt", "MODIFY grown.txt", "CLOSE_WRITE,CLOSE grown.txt", "MODIFY same.txt",
            "MODIFY tool", "MODIFY run.log", "DELETE gone.txt", "MOVED_FROM old.txt", "MOVED_TO moved.txt",
            "CREATE,ISDIR dir", "CREATE,ISDIR dir/in", "CREATE dir/x.txt", "CREATE dir/in/y.txt",
        }, SOON)  # fmt: skip
        watchdog.says({
            "created new.txt", "modified grown.txt", "modified same.txt", "deleted gone.txt", "moved old.txt moved.txt",
            "created dir", "created dir/x.txt", "created dir/in", "created dir/in/y.txt",
        }, SOON)  # fmt: skip
        entr.says({"changed grown.txt"}, SOON)
        assert entr_for_new.process.wait(SOON) == 2, entr_for_new.lines
        tail.says({"one", "two"}, SOON)
        assert (here / "same.txt").read_text() == "b"

        told_all(server, inotifywait, "last")
        assert not {event: times for event, times in counted(inotifywait.lines).items() if times > 2}

        job.append("dir/in/y.txt", "more")
        job.write("sub/deep/new.txt", "a")
        job.delete("away/in.txt")
        job.delete("away")
        job.delete("run.log")
        job.delete("made/again.txt")
        job.delete("made")
        job.seed({"made/again.txt": "b"})
        job.move("dir", "other")
        inotifywait.says({
            "CREATE sub/deep/new.txt", "DELETE away/in.txt", "DELETE,ISDIR away", "DELETE dir/in/y.txt",
            "DELETE,ISDIR dir", "CREATE,ISDIR other", "CREATE other/in/y.txt", "DELETE run.log",
        }, SOON)  # fmt: skip
        watchdog.says(
            {"created sub/deep/new.txt", "deleted away", "deleted dir", "created other/in/y.txt"}, SOON
        )
        job.append("other/in/y.txt", "more")
        job.write("made/later.txt", "a")
        inotifywait.says({"MODIFY other/in/y.txt", "CREATE made/later.txt"}, SOON)
    assert (here / "other/in/y.txt").read_text() == "ymoremore"


SAVES = (
    "printf 'in place\n' > in-place.txt",
    "printf 'more\n' >> in-place.txt",
    f"{shlex.quote(sys.executable)} -c "
    '\'import os; f = open("synced.txt", "wb"); f.write(b"s"); f.flush(); os.fsync(f.fileno())\'',
    "printf 'whole\n' > .over.tmp && mv .over.tmp over.txt",
    "cp over.txt copy.txt && mv copy.txt dir/copy.txt && rm dir/copy.txt",
    "mkdir made",
    "printf 'in it\n' > made/x.txt && mv made moved && rm -r moved",
    "vim -u NONE -N -es --cmd 'set backupcopy=no writebackup backupskip= fsync' vim.txt -c '%s/a/b/' -c wq",
    "vim -u NONE -N -es --cmd 'set backupcopy=yes writebackup backupskip= fsync' vim.txt -c '%s/b/c/' -c wq",
    "truncate -s 3 vim.txt && chmod 644 vim.txt && touch vim.txt",
)


@pytest.mark.needs_program("vim")
def test_own_saves_produce_the_events_of_a_disk(server: Server, mounted: MountedJob, tmp_path: Path) -> None:
    """7.2: none when they are sent, and none later; none for the names that a save hides."""
    seeds = dict.fromkeys(
        ("in-place.txt", "synced.txt", "over.txt", "vim.txt", "dir/x.txt", "note.txt"), "a\n"
    )
    job, disk = server.job_side(server.job), tmp_path / "disk"
    job.seed(seeds, age=60)
    for name, content in seeds.items():
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_text(content)
    with (
        watching(tmp_path / "mount-says", mounted.path, *INOTIFYWAIT, mounted.path, watches=2) as here,
        watching(tmp_path / "disk-says", disk, *INOTIFYWAIT, disk, watches=2) as there,
    ):
        for save in SAVES:
            for place in (mounted.path, disk):
                run(place, "bash", "-e", "-c", save)
            mounted.wait_until_settled()
            # The content of a new directory has events for programs that already watch it.
            eventually(lambda: here.watches() == there.watches())
        told_all(server, here, "last")
        (disk / "last").write_text("")
        there.says({"CLOSE_WRITE,CLOSE last"}, SOON)
        mine, theirs = counted(here.lines), counted(there.lines)
        assert not mine - theirs
        # A disk has access lists too, with events of their own.
        assert not [event for event in theirs - mine if not event.startswith("ATTRIB ")]
        assert not [line for line in here.lines if ".jobfs-" in line]


def test_no_events_are_sent_where_none_are_wanted(server: Server, mount: Mount, tmp_path: Path) -> None:
    """7.5: and a read-only mount is one for the kernel too."""
    job, mounts, watchers = server.job_side(server.job), Path("/proc/mounts"), list[Watcher]()
    job.seed({"note.txt": "old\n"}, age=60)
    with ExitStack() as stack:
        for flags in ({"no_watch": True}, {"read_only": True}, {}):
            at = mount(**flags).path
            (options,) = [line.split()[3] for line in mounts.read_text().splitlines() if str(at) in line]
            assert ("ro" in options.split(",")) is ("read_only" in flags)
            watchers += [stack.enter_context(watching(tmp_path / f"{len(watchers)}", at, *INOTIFYWAIT, at))]
        *silent, usual = watchers
        job.write("note.txt", "new\n")
        for watcher in silent:
            seen = watcher.directory / "note.txt"
            eventually(lambda seen=seen: seen.read_text() == "new\n", "it is seen by who looks")  # type: ignore[misc]
        told_all(server, usual, "last")
        assert not [line for watcher in silent for line in counted(watcher.lines)]


def requests_in(server: Server, seconds: float) -> int:
    before = server.log.count()
    time.sleep(seconds)
    return server.log.count() - before


def test_no_request_is_made_without_a_watcher(server: Server, mount: Mount, tmp_path: Path) -> None:
    """7.6: no request while nobody watches, nor ten seconds after a program was killed that did, here a file alone."""
    server.job_side(server.job).seed({"note.txt": "old\n"}, age=60)
    mounted = mount(ttl=0.1)
    assert mounted.path.joinpath("note.txt").read_text() == "old\n"
    eventually(lambda: not requests_in(server, 1), "what it reads when it starts")
    with watching(tmp_path / "says", mounted.path, *INOTIFYWAIT, mounted.path / "note.txt") as watcher:
        server.job_side(server.job).replace("note.txt", "new\n")
        watcher.says({"MODIFY note.txt"}, SOON)
    killed = time.time()
    eventually(lambda: not requests_in(server, 1))
    assert server.log.entries()[-1].time < killed + 10


# programs that use files while watchers get events


def events(mounted: MountedJob) -> AbstractContextManager[Watcher]:
    """A program that prints the events of the directory `a`, from now on."""
    return watching(mounted.home / "events", mounted.path, *INOTIFYWAIT, mounted.path / "a")


def helper_of(mounted: MountedJob) -> int:
    """The process that makes the calls of the events."""
    words = ["pgrep", "-P", str(mounted.pid), "-f", "jobfs/fuse/event_helper.py"]
    (helper,) = map(int, subprocess.run(words, check=True, capture_output=True).stdout.split())
    return helper


def unread(process: int) -> int:
    """How many bytes wait for a process at its standard input."""
    with open(f"/proc/{process}/fd/0", "rb") as pipe:
        return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.needs_program("pgrep")
def test_a_new_file_at_the_old_name_of_a_pending_rename_stays(server: Server, mounted: MountedJob) -> None:
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
def test_a_mapped_file_keeps_its_length_when_shortened(
    server: Server, mounted: MountedJob, gone: str
) -> None:
    server.store.seed({"a/long": "x" * 50_000}, age=60)
    with events(mounted) as watcher, python(mounted.path) as reader:
        mapping = "file = open('a/long', 'rb'); pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)"
        assert reader.does(mapping) == "ok"
        server.store.write("a/long", "short")
        eventually(lambda: "MODIFY a/long" in watcher.lines)
        if gone == "delete":
            server.store.delete("a/long")
        else:
            server.store.move("a/long", "a/elsewhere")
        eventually(lambda: "DELETE a/long" in watcher.lines)
        assert (
            reader.does("assert (len(pages), pages[-1:], len(file.read())) == (50_000, b'x', 50_000)") == "ok"
        )


@pytest.mark.needs_program("pgrep")
def test_a_killed_helper_loses_no_other_event(server: Server, mounted: MountedJob) -> None:
    server.store.seed({"a/first": "1"}, age=60)
    made = {f"CREATE a/{number:03}" for number in range(500)}
    with events(mounted) as watcher:
        server.store.seed({f"a/{number:03}": "1" for number in range(500)})
        eventually(lambda: made & {*watcher.lines})
        os.kill(helper_of(mounted), signal.SIGKILL)
        # That of the call under way may be lost.
        eventually(lambda: len(made & {*watcher.lines}) >= len(made) - 1)


@pytest.mark.needs_program("pgrep")
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
