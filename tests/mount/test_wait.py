"""`jobfs wait` on a real mount: what a script reads after it, and how it ends (vfs/semantics.md 7, jobfs wait)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.support.mounts import Mount, MountedJob, run
from tests.support.waiting import eventually

from jobfs.emulator import Server

Waiting = subprocess.Popen[str]


@contextmanager
def waiting(mounted: MountedJob) -> Iterator[Waiting]:
    """A running `jobfs wait` that has asked for the job at least once."""
    before = mounted.server.log.count("instance")
    with mounted.running("wait", mounted.path) as process:
        eventually(lambda: mounted.server.log.count("instance") > before)
        yield process


def finished(process: Waiting) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_a_script_reads_the_last_write_of_a_job_that_has_ended(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 7.10, 7.11: `jobfs wait DIR && cat DIR/result`, while the kernel still has an earlier version."""
    server.store.seed({"result": "first"}, age=60)
    mounted = mount(ttl=4, read_only=True, no_watch=True)
    with waiting(mounted) as process:
        for number in range(3):
            server.store.write("result", f"version {number}")
            run(mounted.path, "cat", "result")
        server.store.write("result", "the last one")
        server.store.seed({"new": "made at the end"})
        server.job_side(server.job).set_job(status="completed")
        assert finished(process) == (0, "", f"jobfs: {mounted.path}: the job has ended: completed\n")
        assert run(mounted.path, "cat", "result", "new") == "the last onemade at the end"
    assert server.log.changes() == []


def detach(mounted: MountedJob) -> None:
    subprocess.run(["fusermount", "-u", "-z", str(mounted.path)], check=True)


@pytest.mark.parametrize(("leave", "why"), [
    (detach, " is unmounted"), (MountedJob.kill, ": the mount ended before it answered"),
])  # fmt: skip
def test_the_end_of_the_mount_is_exit_code_2(
    server: Server, mounted: MountedJob, leave: Callable[[MountedJob], None], why: str
) -> None:
    """vfs/semantics.md 7.10: also of a mount that lives on because a program has a file open."""
    server.store.seed({"open": "x"}, age=60)
    with waiting(mounted) as process, (mounted.path / "open").open("rb"):
        leave(mounted)
        assert finished(process) == (2, "", f"jobfs: {mounted.path}{why}\n")
