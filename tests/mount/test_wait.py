"""`jobfs wait` on a real mount: what a script reads after it, and how it ends (vfs/semantics.md 7, jobfs wait)."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.mounts import Mount, MountedJob, environment, run
from tests.support.waiting import eventually

from jobfs.emulator import Server

Waiting = subprocess.Popen[str]


@contextmanager
def waiting(mounted: MountedJob, *more: str | Path) -> Iterator[Waiting]:
    """A running `jobfs wait` that has asked for the job at least once."""
    before = mounted.server.log.count("instance")
    process = subprocess.Popen(
        [sys.executable, "-m", "jobfs", "wait", str(mounted.path), *map(str, more)],
        env=environment(mounted.home, None), cwd=mounted.home, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        eventually(lambda: mounted.server.log.count("instance") > before)
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(process: Waiting) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_a_script_reads_the_last_write_of_a_job_that_has_ended(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 7.10, 7.11: `jobfs wait DIR && cat DIR/result`, while the kernel still has an earlier version."""
    server.store.seed({"result": "first"}, age=60)
    mounted = mount(ttl=4)
    with waiting(mounted) as process:
        for number in range(3):
            server.store.write("result", f"version {number}")
            run(mounted.path, "cat", "result")
        server.store.write("result", "the last one")
        server.store.seed({"new": "made at the end"})
        server.job_side(server.job).set_job(status="completed")
        assert finished(process) == (0, "", f"jobfs: {mounted.path}: the job has ended: completed\n")
        assert run(mounted.path, "cat", "result", "new") == "the last onemade at the end"


@pytest.mark.parametrize(("status", "code", "said"), [
    ("completed", 0, "has ended"), ("failed", 1, "has ended"), ("requestInteractiveToolResult", 3, "asks for something"),
])  # fmt: skip
def test_wait_returns_at_once_for_a_job_that_has_ended(
    server: Server, mounted: MountedJob, status: str, code: int, said: str
) -> None:
    """vfs/semantics.md 7.10."""
    server.job_side(server.job).set_job(status=status)
    (mounted.path / "dir").mkdir()
    done = mounted.jobfs("wait", mounted.path / "dir", "--timeout", "30")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"jobfs: {mounted.path}: the job {said}: {status}\n"


def test_a_timeout_is_exit_code_124_even_with_a_silent_server(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 7.10, 7.11."""
    done = mounted.jobfs("wait", mounted.path, "--timeout", "0.5")
    line = f"jobfs: {mounted.path}: the job has not ended within 0.5 s\n"
    assert (done.returncode, done.stderr) == (124, line)
    server.faults.set_rate("hang", 1.0)
    done = mounted.jobfs("wait", mounted.path, "--timeout", "1.5")
    assert (done.returncode, done.stderr) == (124, line.replace("0.5", "1.5"))


def test_wait_reports_an_outage_once_and_returns_after_it(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 7.11."""
    with waiting(mounted) as process:
        server.faults.set_rate("drop", 1.0)
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "the server does not say whether the job has ended" in said
        before = server.log.count()
        eventually(lambda: server.log.count() > before)
        server.job_side(server.job).set_job(status="canceled")
        server.faults.clear()
        assert finished(process) == (1, "", f"jobfs: {mounted.path}: the job has ended: canceled\n")


@pytest.mark.parametrize(("leave", "why"), [
    (MountedJob.umount, " is unmounted"), (MountedJob.kill, ": the mount ended before it answered"),
])  # fmt: skip
def test_the_end_of_the_mount_is_exit_code_2(
    mounted: MountedJob, leave: Callable[[MountedJob], None], why: str
) -> None:
    """vfs/semantics.md 7.10."""
    with waiting(mounted) as process:
        leave(mounted)
        assert finished(process) == (2, "", f"jobfs: {mounted.path}{why}\n")


def test_a_detached_directory_is_exit_code_2(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 7.10: though the mount lives as long as a program has a file open."""
    server.store.seed({"open": "x"}, age=60)
    with waiting(mounted) as process, (mounted.path / "open").open("rb") as opened:
        subprocess.run(["fusermount", "-u", "-z", str(mounted.path)], check=True)
        assert finished(process) == (2, "", f"jobfs: {mounted.path} is unmounted\n")
        assert opened.read() == b"x"


def test_ctrl_c_is_exit_code_130_and_ends_the_wait_in_the_mount(server: Server, mounted: MountedJob) -> None:
    with waiting(mounted) as process:
        process.send_signal(signal.SIGINT)
        assert finished(process) == (130, "", "\n")
    before = server.log.count("instance")
    with waiting(mounted, "--timeout", "6") as process:
        assert finished(process)[0] == 124
    assert server.log.count("instance") == before + 2, "only of the second one"


def test_a_read_only_mount_without_watchers_waits_too(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 7.10."""
    mounted = mount(read_only=True, no_watch=True)
    server.job_side(server.job).set_job(status="completed")
    assert mounted.jobfs("wait", mounted.path).returncode == 0
    assert server.log.changes() == []


def test_bad_input_is_one_sentence(mounted: MountedJob) -> None:
    """vfs/semantics.md 6.3."""
    for path in (mounted.home, mounted.home / "not there"):
        done = mounted.jobfs("wait", path)
        assert (done.returncode, done.stderr) == (2, f"jobfs: no job is mounted at {path}\n")
