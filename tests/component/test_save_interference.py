"""Whatever happens to a file at any instant of its save here: all contents exist afterwards, the user's under the name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.interferences import Interference, Scene, of
from tests.support.judge import Effect, Judge
from tests.support.overlaps import Overlaps
from tests.support.serverside import found_on, visible
from tests.support.workspaces import check_shown

from jobfs.emulator import Server

OLD, USERS = b"the old content", b"what the user has written"
#: As long as the old one: only its bytes tell that it is another.
JOBS = b"what a job made"
TARGET, ELSEWHERE = "dir/file.txt", "elsewhere.txt"


def note(judge: Judge, effects: list[Effect]) -> None:
    """Note what another mount did, which had seen OLD: whose version has the name is open, and one may be kept twice."""
    for path, before, after, *_ in effects:
        judge.put(path, *{*judge.at(path), after})
        if after == JOBS:
            judge.owe(path, JOBS)
        if path == TARGET and before != USERS:
            judge.owe(path, USERS)


def interfered(
    server: Server, home: Path, at: int, act: Interference, *, new: bool = False
) -> tuple[Boundaries, Judge]:
    """Save the file, or a new one, with the act at boundary `at`; another mount that acts has read the file before."""
    server.store.clear()
    server.store.seed({"dir/other": b"untouched", **({} if new else {TARGET: OLD})}, age=60)
    judge = Judge(visible(server))
    judge.put(TARGET, USERS)
    scene = Scene(TARGET, server.store, lambda before: JOBS, ELSEWHERE)
    others: list[Mortal] = []
    noted: Callable[[Judge, list[Effect]], None] = Judge.act
    with ExitStack() as mounts:
        if act.actor == "mount":
            judge.excuse([USERS, JOBS, OLD])
            scene.other, noted = mounts.enter_context(Mortal(server, home / "other", Boundaries())), note
            others = [scene.other]
        boundaries = Boundaries(at, lambda: noted(judge, act.play(scene)), journal=False)
        scene.work = work = mounts.enter_context(Mortal(server, home / "work", boundaries))
        assert all(other.read(TARGET) == OLD for other in others)
        fh = work.opened(TARGET)
        work.vfs.write(fh, USERS, 0)
        work.work(lambda: work.vfs.fsync(fh))
        for handle in [fh, *scene.handles]:
            work.vfs.release(handle)
        for mount in [work, *others]:
            mount.settle()
        if act.name.startswith("moves away"):
            # Not promised: a file that is unchanged, and is moved away between find and set-aside.
            judge.doubt(ELSEWHERE, judge.absent)
        found = found_on(server)
        assert judge.violations(found) == [], (
            f"{act} at {at}, {boundaries.last}, of {boundaries.passed}: {found}"
        )
        for mount in [work, *others]:
            mount.vfs.refresh()
            check_shown(mount)
    return boundaries, judge


def everywhere(server: Server, home: Path, act: Interference, *, new: bool = False) -> tuple[Boundaries, int]:
    """Play the act at every boundary; return these, and how many promises it brought about."""
    promises = 0
    for at in count(1):
        boundaries, judge = interfered(server, home / f"{at}", at, act, new=new)
        promises += judge.promises
        if not boundaries.struck:
            return boundaries, promises
    raise AssertionError


@pytest.mark.parametrize(
    ("act", "move_touches", "overlaps"),
    [
        *((act, "item", False) for act in of("job", "program")),
        *((act, "item", True) for act in of("job")),
        *((act, "no", True) for act in of("job") if act.writes),
    ],
    indirect=["overlaps"],
    ids=str,
)
def test_all_contents_are_kept_whatever_interferes_with_a_save(
    server: Server, tmp_path: Path, act: Interference, move_touches: str, overlaps: Overlaps | None
) -> None:
    """vfs/semantics.md 4.20: the user's save wins the name, the job's bytes are kept and visible.

    save/protocol.md R13: promote counts by its own answer alone. How often the job meets the moment in which T is absent is a
    matter of luck: it is short. In turn, where a move does not change `updatedAt`: tests/unit/save/test_interference.py.
    """
    server.set(move_touches=move_touches)
    boundaries, promises = everywhere(server, tmp_path, act)
    assert boundaries.surround(4), boundaries.passed
    # With overlapping requests, an act that needs T to be absent may find it there each time.
    assert overlaps is not None or bool(promises) is act.writes
    assert overlaps is None or overlaps.total()


@pytest.mark.parametrize("act", of("job"), ids=str)
def test_all_contents_are_kept_whatever_interferes_with_a_new_file(
    server: Server, tmp_path: Path, act: Interference
) -> None:
    """vfs/semantics.md 4.22: if the target was deleted meanwhile, the save brings it back, with its directory."""
    boundaries, _ = everywhere(server, tmp_path, act, new=True)
    assert boundaries.surround(2), boundaries.passed


@pytest.mark.parametrize("act", of("mount"), ids=str)
def test_both_contents_are_kept_whatever_another_mount_does(
    server: Server, tmp_path: Path, act: Interference
) -> None:
    """vfs/semantics.md 6.12: several machines may mount one job at once: every rule holds between them too."""
    boundaries, promises = everywhere(server, tmp_path, act)
    assert boundaries.surround(4), boundaries.passed
    assert promises > 1, "both saves were seen"
