"""Whatever the job does between two requests of a save: the user's bytes are under the name, and no unread version is lost."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from tests.support.interferences import Interference, Scene, of
from tests.support.judge import Found, Judge

from jobfs.nodes import Kind
from jobfs.state.records import Base, Stage

from .world import FakeClient, JobInMemory, World, sha

OLD, USERS, JOBS = b"the old content", b"what the user has written", b"what a job made"
TARGET, ELSEWHERE = "dir/file.txt", "elsewhere.txt"


def found_on(job: JobInMemory) -> Found:
    found: dict[str, list[bytes | None]] = {}
    for item in job.items():
        found.setdefault(item.path, []).append(None if item.is_dir else job.content_of(item.id))
    return found


def interfered(home: Path, at: int, act: Interference, *, moves_touch: bool) -> tuple[bool, Judge]:
    """Save a file with the act before request `at`, and judge; return whether the save had so many requests."""
    client = FakeClient()
    client.moves_touch = moves_touch
    client.put("d", "dir", None)
    home.mkdir()
    world, item, job = World(home, client), client.put("o", TARGET, OLD), JobInMemory(client)
    world.context.server.learn(rejects=dict.fromkeys(Kind, False))  # else it would ask
    judge, requests = Judge({"dir": None, TARGET: USERS}), count(1)
    scene = Scene(TARGET, job, lambda before: JOBS, ELSEWHERE)
    client.on_request = lambda: judge.act(act.play(scene)) if next(requests) == at else None
    try:
        file = world.closed(TARGET, USERS, item)
        read = Base.from_item(item, sha256=sha(OLD))
        world.state.apply_in_memory(file, base=read)  # its program has read it
        world.write_back.wait_until_uploaded(file)
        while any(change.stage in (Stage.PLACED, Stage.CANCELLED) for change in world.state.changes.values()):
            world.clean_up()
    finally:
        world.close()
    if act.name.startswith("moves away"):
        # Not promised: a file that is unchanged, and is moved away between find and set-aside.
        judge.doubt(ELSEWHERE, judge.absent)
    assert judge.violations(found_on(job)) == [], f"{act} before request {at}: {client.done}"
    return next(requests) > at, judge


@pytest.mark.parametrize("act", of("job"), ids=str)
@pytest.mark.parametrize("moves_touch", [True, False], ids=["moves touch", "moves do not touch"])
def test_a_save_keeps_all_contents_whatever_the_job_does(
    tmp_path: Path, act: Interference, moves_touch: bool
) -> None:
    """vfs/semantics.md 4.20, save/protocol.md R1."""
    promises = 0
    for at in count(1):
        struck, judge = interfered(tmp_path / f"{at}", at, act, moves_touch=moves_touch)
        promises += judge.promises
        if not struck:
            break
    assert at > 5
    assert bool(promises) is act.writes
