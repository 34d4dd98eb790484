"""vfs/semantics.md 7: programs that watch a directory of the mount by inotify get events for what the job does in it."""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.support.mounts import Mount, run
from tests.support.waiting import eventually
from tests.support.watching import INOTIFYWAIT, Watcher, counted, watching

from jobfs.emulator import Server

TTL = 0.5
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


def test_watchers_see_what_the_job_does(server: Server, mount: Mount, tmp_path: Path) -> None:
    """7.1, 7.3: each in its own words, within the TTL and two seconds; and no event more than twice."""
    job = server.job_side(server.job)
    job.seed(SEEDS, age=60)
    mounted = mount(ttl=TTL)
    here = mounted.path
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
        expected = {
            "CREATE sub/deep/new.txt", "DELETE away/in.txt", "DELETE,ISDIR away", "DELETE dir/in/y.txt",
            "DELETE,ISDIR dir", "CREATE,ISDIR other", "CREATE other/in/y.txt", "DELETE run.log",
        }  # fmt: skip
        inotifywait.says(expected, SOON)
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


def test_own_saves_produce_the_events_of_a_disk(server: Server, mount: Mount, tmp_path: Path) -> None:
    """7.2: none when they are sent, and none later; none for the names that a save hides."""
    seeds = dict.fromkeys(
        ("in-place.txt", "synced.txt", "over.txt", "vim.txt", "dir/x.txt", "note.txt"), "a\n"
    )
    job, disk = server.job_side(server.job), tmp_path / "disk"
    job.seed(seeds, age=60)
    for name, content in seeds.items():
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_text(content)
    mounted = mount(ttl=TTL)
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
            at = mount(ttl=TTL, **flags).path
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
