"""Really killed: a few rounds of what `scripts/crash-test` runs for any time; and beside another mount."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stress.killing.conditions import Conditions
from tests.stress.killing.lane import Lane
from tests.support.mounts import Mount
from tests.support.serverside import hidden
from tests.support.waiting import eventually

from jobfs.emulator import Behaviour, Rule, Server

OPTIONS = {"request_lifetime": 0.5, "timeout": 10}

CONDITIONS = {
    "nothing goes wrong": Conditions(Behaviour(latency=5), options={**OPTIONS, "write_back_delay": 0.05}),
    "the job is at work": Conditions(
        Behaviour(latency=2), job_pause=0.05, options={**OPTIONS, "write_back_delay": 0}
    ),
    "answers are lost, and requests carried out late": Conditions(
        Behaviour(updated_resolution="seconds", sizes="omitted"),
        (Rule("late", "change", rate=0.1, delay=0.2), Rule("drop_after", "change", rate=0.1)),
        job_pause=0.1,
        options={**OPTIONS, "write_back_delay": 0},
    ),
}


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    lane = Lane(tmp_path / "lane", 2026)
    yield lane
    lane.close()


@pytest.mark.needs_fuse
@pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS)
def test_repeated_kills_of_a_mount_under_load_lose_nothing(lane: Lane, conditions: Conditions) -> None:
    """vfs/semantics.md 4.19: killed at any point, the next mount of that job finishes it by looking at what the server has."""
    lane.chapter(1, conditions, rounds=2)
    assert not lane.tally.violations, "\n".join(lane.tally.violations)
    assert lane.tally.kills >= 2
    assert lane.tally.acknowledged > 0


@pytest.mark.parametrize("silent_on", ["create", "delete"])
def test_the_next_mount_removes_the_probe_item_of_a_killed_mount(
    server: Server, mount: Mount, silent_on: str
) -> None:
    """save/protocol.md R9: killed while it asks, the next mount takes the hidden item away, though nobody lists anything."""
    job = mount(**OPTIONS)
    (job.path / "first").write_bytes(b"1")
    job.flush()
    # The second new file makes the mount ask: it creates a hidden item, twice, and deletes it.
    server.faults.add(Rule("late" if silent_on == "create" else "silent", silent_on, skip=1, delay=0.1))
    handle = os.open(job.path / "second", os.O_WRONLY | os.O_CREAT)
    os.close(handle)
    eventually(lambda: hidden(server), "the mount asks")
    job.kill()
    server.faults.clear()
    left = hidden(server)
    job.mount()
    eventually(lambda: not hidden(server), lambda: f"{left}, {hidden(server)}: {job.log}")
    assert sorted(os.listdir(job.path)) == ["first", "second"]
    job.umount()
