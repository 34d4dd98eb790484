"""`jobfs watch`, `jobfs wait` and `jobfs status --watch` on a real mount: what they print, how they end, what they cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import pytest
from tests.support.files import errno_from, save_file
from tests.support.mounts import Mount, MountedJob, environment, run
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually, eventually_equal

from jobfs.emulator import Server

#: Seconds after which a change is late: the effective TTL and two of them (vfs/semantics.md 7.1), and again for a slow machine.
LATE = 2 * (0.5 + 2.0)


class Watch(NamedTuple):
    """A running `jobfs watch`; `out`: what it has printed on stdout and stderr."""

    process: subprocess.Popen[str]
    out: Path

    @property
    def lines(self) -> list[str]:
        """All but the first line, which describes the job."""
        return self.out.read_text().splitlines()[1:]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@contextmanager
def watching(mounted: MountedJob, *arguments: str | Path) -> Iterator[Watch]:
    out = mounted.home / f"watched{time()}"
    with out.open("w") as file, mounted.running("watch", *arguments, out=file) as process:
        eventually(lambda: "job" in out.read_text(), out.read_text)
        yield Watch(process, out)


@contextmanager
def waiting(mounted: MountedJob) -> Iterator[Watch]:
    """Run `jobfs wait`, which has asked for the job at least once."""
    before, out = mounted.server.log.count("instance"), mounted.home / "waited"
    with out.open("w") as file, mounted.running("wait", mounted.path, out=file) as process:
        eventually(lambda: mounted.server.log.count("instance") > before)
        yield Watch(process, out)


def test_each_change_of_the_job_is_a_line_and_no_own_change_is(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 7.1, 7.2, 7.8."""
    server.store.seed({"dir/a": "one", "dir/b": "two", "elsewhere": "x"}, age=60)
    with watching(mounted, mounted.path, "--json") as every, watching(mounted, mounted.path / "dir") as below:
        steps: list[tuple[Callable[[], object], tuple[Any, ...]]] = [
            (lambda: server.store.write("dir/a", "three"), ("changed", None, "dir/a", 5, False)),
            (lambda: server.store.write("dir/new", ""), ("created", None, "dir/new", 0, False)),
            (lambda: server.store.move("dir/b", "dir/c"), ("renamed", "dir/b", "dir/c", 3, False)),
            (lambda: server.store.delete("dir/a"), ("deleted", None, "dir/a", None, False)),
            (lambda: server.store.seed({"made": None}), ("created", None, "made", None, True)),
        ]
        for number, (act, expected) in enumerate(steps, start=1):
            (mounted.path / f"own{number}").write_bytes(b"ours")
            began = time()
            act()
            eventually_equal(lambda: len(every.events), number)
            news = every.events[-1]
            assert tuple(news[name] for name in ("what", "old", "path", "size", "directory")) == expected
            assert began < news["time"] < began + LATE
        eventually(lambda: len(below.lines) == len(steps) - 1)
        assert [line.split("  ", 1)[1] for line in below.lines] == [
            "changed   dir/a  5B",
            "created   dir/new  0B",
            "renamed   dir/b -> dir/c  3B",
            "deleted   dir/a",
        ]


def test_a_watch_shows_the_jobs_steps_conflicts_and_failed_saves(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 6.6, 7.8: it does not stop when the job ends."""
    server.store.seed({"a": "old"}, age=60)
    job = server.job_side(server.job)
    with watching(mounted, mounted.path, "--json") as watch:

        def events(what: str) -> list[Any]:
            return [news for news in watch.events if news["what"] == what]

        job.set_job(status="completed", current_step=7)
        with (mounted.path / "a").open("r+b") as opened:
            opened.write(b"new")
            server.store.write("a", "the job's")
        mounted.wait_until_settled()
        server.faults.set_rate("error", 1.0, on="create", status=413, reason="Too large")
        errno_from(save_file, mounted.path / "big", b"refused")
        eventually(lambda: events("job") and events("conflict") and events("failed"), lambda: watch.events)
        job.set_job(status="processing", current_step=8)
        eventually(lambda: len(events("job")) == 2, lambda: watch.events)
        (ended, continued), (conflict,), (failed,) = map(events, ("job", "conflict", "failed"))
    assert [each["job"]["current_step"] for each in (ended, continued)] == [7, 8]
    assert (ended["job"]["status"], continued["reason"]) == ("completed", "continued")
    assert conflict["path"] == mounted.status()["conflicts"][0]["path"]
    assert (failed["path"], failed["size"], "Too large" in failed["reason"]) == ("big", 7, True)


def test_jobfs_watch_counts_as_a_watcher_until_it_ends(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 7.5, 7.6, 7.8: on a read-only mount, with --no-watch and without a change too."""
    mounted = mount(read_only=True, no_watch=True)

    def programs() -> int:
        number: int = mounted.status()["watching"]["programs"]
        return number

    words = [sys.executable, "-m", "jobfs", "watch", str(mounted.path)]
    env = environment(mounted.home, None)
    with watching(mounted, mounted.path) as watch:
        # The reader goes away after the first line, and no other comes.
        subprocess.run(["sh", "-c", '"$@" | head -1', "sh", *words], env=env, check=True, timeout=30)
        eventually_equal(programs, 1)
        eventually(lambda: mounted.status()["watching"]["requests"] > 2)
        watch.process.send_signal(signal.SIGINT)
        assert (watch.process.wait(20), watch.lines) == (0, [])
    eventually_equal(programs, 0)


@pytest.mark.needs_program("tmux")
def test_on_a_terminal_a_watch_is_in_colour_and_ends_at_ctrl_c(server: Server, mounted: MountedJob) -> None:
    with on_terminal(mounted.home, "watch") as screen:
        screen.shows("job  ")
        server.store.write("it", "is")
        screen.shows("created   it  2B")
        assert "\x1b[32mcreated" in screen.tmux("capture-pane", "-p", "-e").stdout
        screen.keys("C-c")
        assert screen.wait_for_exit_code() == 0


def detach(mounted: MountedJob) -> None:
    subprocess.run(["fusermount", "-u", "-z", str(mounted.path)], check=True)


@pytest.mark.parametrize(("command", "leave", "code", "why"), [
    ("watch", MountedJob.umount, 1, " is unmounted"),
    ("watch", MountedJob.kill, 1, ": the mount ended before it answered"),
    # Also of a mount that lives on because a program has a file open.
    ("wait", detach, 2, " is unmounted"),
    ("wait", MountedJob.kill, 2, ": the mount ended before it answered"),
])  # fmt: skip
def test_a_watch_and_a_wait_end_with_the_mount_and_say_so(
    server: Server,
    mounted: MountedJob,
    command: str,
    leave: Callable[[MountedJob], None],
    code: int,
    why: str,
) -> None:
    """vfs/semantics.md 7.8, 7.10."""
    server.store.seed({"open": "x"}, age=60)
    running = waiting(mounted) if command == "wait" else watching(mounted, mounted.path)
    with running as (process, out), (mounted.path / "open").open("rb") if leave is detach else nullcontext():
        leave(mounted)
        assert process.wait(30) == code
        # The first line of a watch describes the job.
        assert out.read_text().splitlines()[command == "watch" :] == [f"jobfs: {mounted.path}{why}"]


def test_a_watch_that_does_not_read_blocks_nothing_else(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 7.7, 7.9."""
    with mounted.connect() as deaf, watching(mounted, mounted.path) as watch:
        deaf.sendall(b'{"call": "watch", "args": {"path": ""}}\n')
        eventually_equal(lambda: mounted.status()["watching"]["programs"], 2)
        server.store.seed({f"many/{number}-{'x' * 200}": "" for number in range(2000)})
        eventually(lambda: sum("many/" in line for line in watch.lines) >= 2000, timeout=60)
        assert len(os.listdir(mounted.path / "many")) == 2000
        mounted.umount()


def test_a_missing_path_is_reported_by_name(mounted: MountedJob) -> None:
    for command in ("watch", "flush"):
        done = mounted.jobfs(command, mounted.path / "none")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"jobfs: {mounted.path}/none: No such file or directory\n"


def test_a_script_reads_the_last_write_of_a_job_that_has_ended(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 7.10, 7.11: `jobfs wait DIR && cat DIR/result`, while the kernel still has an earlier version."""
    server.store.seed({"result": "first"}, age=60)
    mounted = mount(ttl=4, read_only=True, no_watch=True)
    with waiting(mounted) as (process, out):
        for number in range(3):
            server.store.write("result", f"version {number}")
            run(mounted.path, "cat", "result")
        server.store.write("result", "the last one")
        server.store.seed({"new": "made at the end"})
        server.job_side(server.job).set_job(status="completed")
        assert process.wait(30) == 0
        assert run(mounted.path, "cat", "result", "new") == "the last onemade at the end"
        assert out.read_text() == f"jobfs: {mounted.path}: the job has ended: completed\n"
    assert server.log.changes() == []


@pytest.mark.needs_program("tmux")
def test_a_watched_status_shows_each_change_until_interrupted(server: Server, mounted: MountedJob) -> None:
    server.store.seed({"a.conflict-20260101T000000Z": "x"})
    assert os.listdir(mounted.path) == ["a.conflict-20260101T000000Z"]
    with on_terminal(mounted.home, "status", "--watch", mounted.path) as screen:
        screen.shows("! 1 conflict")
        screen.keys("C-c")
        assert screen.wait_for_exit_code() == 1
    with on_terminal(mounted.home, "status", "--watch", mounted.path) as screen:
        screen.shows("! 1 conflict")
        os.unlink(mounted.path / "a.conflict-20260101T000000Z")
        eventually(lambda: "conflict" not in screen.screen().partition("unsent")[2], screen.screen)
        assert screen.screen().count("items") == 1
    mounted.umount()
    assert mounted.jobfs("status", "--watch", mounted.path).returncode == 2


def test_callers_that_hang_up_leave_no_thread(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6, Bounds: of `jobfs flush`, `jobfs wait` and `jobfs watch`."""
    mounted = mount(timeout=60)
    tasks = Path(f"/proc/{mounted.pid}/task")
    assert os.listdir(mounted.path) == []
    server.faults.set_rate("unavailable", 1.0, on="change")
    (mounted.path / "unsent.txt").write_bytes(b"kept")
    eventually(lambda: mounted.status()["unsent"][0]["attempts"] >= 1)
    # Threads that other parts start once: a timer, a thread of a pool.
    most = len(os.listdir(tasks)) + 2
    for call, arguments in (("flush", {}), ("wait", {}), ("watch", {"path": ""})):
        for _ in range(10):
            with mounted.connect() as connection:
                connection.sendall(json.dumps({"call": call, "args": arguments}).encode() + b"\n")
    eventually(lambda: len(os.listdir(tasks)) <= most, lambda: os.listdir(tasks))
