"""What machines do to a mount: they run many of them, stop them, set their clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from tests.support.clocks import ClockedMount
from tests.support.files import save_file
from tests.support.mounts import Mount, MountedJob, gone_afterwards
from tests.support.programs import program
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually, eventually_equal

from jobfs.emulator import Server

MANY = 20


def test_twenty_mounts_run_at_once(server: Server, mount: Mount, tmp_path: Path) -> None:
    """vfs/semantics.md 6.4, 6.6, 6.12: all start, read, save and show what the others saved; one command ends all of them."""
    server.store.seed({"shared": "of the job"}, age=60)
    state = tmp_path / "state"
    jobs = [mount(start=False, state_dir=state) for _ in range(MANY)]
    with ThreadPoolExecutor(2) as few:  # the server, in this process, has to answer each within seconds
        list(few.map(MountedJob.mount, jobs))
    names = [f"from{number}" for number in range(MANY)]
    for job, name in zip(jobs, names, strict=True):
        assert (job.path / "shared").read_bytes() == b"of the job"
        (job.path / name).write_bytes(name.encode())
    output = jobs[0].jobfs("status", "--json", "--state-dir", state)
    assert sorted(each["directory"] for each in json.loads(output.stdout)["mounts"]) == sorted(
        str(job.path) for job in jobs
    )
    for job in jobs:
        eventually_equal(lambda job=job: sorted(os.listdir(job.path)), sorted(["shared", *names]))  # type: ignore[misc]
    ended = jobs[0].jobfs("umount", "--all", "--state-dir", state, timeout=60)
    assert ended.returncode == 0, ended.stderr
    for job in jobs:
        job.wait_for_end()
    assert visible(server) == {"shared": b"of the job", **{name: name.encode() for name in names}}


def test_a_mount_stopped_for_longer_than_its_ttl_works_again(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 1.4, 3.15, 4.20: nothing old is shown as new, no error stays, nothing is overwritten."""
    server.store.seed(dict.fromkeys(("shown", "both", "unsent", "read"), "before"), age=60)
    mounted = mount(write_back_delay=1)
    at, group = mounted.path, mounted.ask("status")["pid"]
    for name in ("shown", "both", "unsent"):
        assert (at / name).read_bytes() == b"before"
    server.faults.set_rate("slow", 1.0, on="download", delay=0.5)
    reader = subprocess.Popen(program("cat").command(at / "read"), stdout=subprocess.PIPE)
    eventually(lambda: len(server.log.entries("download")) > 3)
    for name in ("both", "unsent"):
        (at / name).write_bytes(b"here")
    os.killpg(group, signal.SIGSTOP)
    try:
        for name in ("shown", "both"):
            server.store.write(name, "the job's")
        time.sleep(1.5)  # three times the TTL, and longer than an answer and the delay of a save take
    finally:
        os.killpg(group, signal.SIGCONT)
    assert (at / "shown").read_bytes() == b"the job's"
    assert reader.communicate(timeout=30)[0] == b"before"
    assert reader.returncode == 0
    mounted.wait_until_settled()
    assert contents(server) == sorted([b"before", b"here", b"here", b"the job's", b"the job's"])
    assert {name: server.store.read(name) for name in ("both", "unsent")} == dict.fromkeys(
        ("both", "unsent"), b"here"
    )
    save_file(at / "read", b"saved")
    (conflict,) = mounted.status()["conflicts"]
    assert conflict["origin"] == "both"
    assert [problem for problem in mounted.status()["problems"] if not problem.startswith("1 conflict")] == []
    mounted.umount()


# -- a clock that is set


@pytest.mark.parametrize("step", [3600, -3600], ids=["forwards", "backwards"])
def test_a_set_clock_makes_no_conflict_and_hides_none(server: Server, tmp_path: Path, step: int) -> None:
    """vfs/semantics.md 1.4, 2.18, 4.20: what the job wrote shows within the TTL; what it did not write is no second version."""
    server.set(updated_resolution="seconds")
    server.store.seed(dict.fromkeys(("alone", "both", "shown", "kept"), "before"), age=60)
    with gone_afterwards(ClockedMount(server, tmp_path / "home", write_back_delay=1)) as mounted:
        at = mounted.path
        save_file(at / "new", b"new")
        for name in ("alone", "both", "shown"):
            assert (at / name).read_bytes() == b"before"
        (at / "kept").write_bytes(b"unsent when it is set")
        seen = at.stat().st_mtime_ns
        mounted.set_clock(step)
        server.store.write("both", "of the job")
        for name in ("new", "alone", "both"):
            (at / name).write_bytes(b"saved after it")
        server.store.write("shown", "of the job")
        server.store.seed({"beside": "of the job"})
        eventually_equal(lambda: (at / "shown").read_bytes(), b"of the job")
        # A program that keeps what it has seen of the directory looks again.
        eventually(lambda: (at / "beside").exists() and at.stat().st_mtime_ns > seen)
        mounted.wait_until_settled()
        (conflict,) = mounted.status()["conflicts"]
        assert (conflict["origin"], (at / conflict["path"]).read_bytes()) == ("both", b"of the job")
    assert contents(server) == sorted(
        [b"saved after it"] * 3 + [b"of the job"] * 3 + [b"unsent when it is set"]
    )


def test_setting_the_clock_does_not_change_which_versions_are_racy(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md R1: bytes decide, for the server's clock is where it was."""
    ticks = count(
        (int(time.time()) + 10) * 1_000_000
    )  # all that is written on the server has one `updatedAt`
    monkeypatch.setattr(type(server.store._store), "now_us", lambda store: next(ticks))
    server.set(updated_resolution="seconds")
    server.store.seed({"file": "first"})
    with gone_afterwards(ClockedMount(server, tmp_path / "home", ttl=60, write_back_delay=2)) as mounted:
        assert os.listdir(mounted.path) == ["file"]
        mounted.set_clock(3600)
        (mounted.path / "file").write_bytes(b"saved")
        server.store.write("file", "later")
        mounted.wait_until_settled()
    assert contents(server) == [b"later", b"saved"]
