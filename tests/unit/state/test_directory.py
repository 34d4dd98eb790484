"""State directories: which one a mount takes, and which it leaves alone."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobfs.errors import UsageError
from jobfs.state import directory as places
from jobfs.state.directory import MERGING, MountRecord, StateDirectory

Take = Callable[..., StateDirectory]

JOB = "j" * 24
URL = "https://api.example.com"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def take(state: Path) -> Iterator[Take]:
    held: list[StateDirectory] = []

    def take(directory: str = "/mnt/a") -> StateDirectory:
        held.append(places.acquire_state_directory(state, JOB, directory, URL))
        return held[-1]

    yield take
    for one in held:
        one.close()


def end_mount(one: StateDirectory, journal: bool = True, *, clean: bool = False) -> StateDirectory:
    """As a mount leaves its places."""
    if journal:
        (one.path / "journal.db").touch()
    one.write_record(clean=clean)
    one.close()
    return one


def test_a_new_state_directory_is_private_and_names_its_job(take: Take, state: Path) -> None:
    one = take()
    assert one.path == state / JOB / one.mount_id
    for path in (state / JOB, one.path, one.path / "bytes"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((one.path / "lock").stat().st_mode) == 0o600
    expected = MountRecord(one.mount_id, JOB, "/mnt/a", URL, os.getpid(), one.record.started, False)
    assert places.inspect_directory(one.path).record == expected


@pytest.mark.parametrize(
    ("left", "at", "taken"),
    [
        ([True, True], "/mnt/0", 0), ([True, True], "/mnt/1", 1), ([True, True], "/mnt/2", 1),
        ([True, False], "/mnt/2", 0), ([True, False], "/mnt/1", 1),
    ],
)  # fmt: skip
def test_a_mount_takes_its_own_state_directory_or_the_last(
    take: Take, left: list[bool], at: str, taken: int
) -> None:
    """`left`: whether the mounts at /mnt/0, /mnt/1 had a journal."""
    places_left = [take(f"/mnt/{number}") for number in range(len(left))]
    for place, journal in zip(places_left, left, strict=True):
        end_mount(place, journal)
    one = take(at)
    assert (one.mount_id, one.record.directory) == (places_left[taken].mount_id, at)


@pytest.mark.parametrize("damage", [lambda _: "{", lambda text: re.sub("[0-9a-f]{12}", "f" * 12, text)])
def test_a_state_directory_without_its_record_is_taken_or_completed(
    take: Take, damage: Callable[[str], str]
) -> None:
    """It has none, or that of another place."""
    lost = end_mount(take())
    (lost.path / "mount.json").write_text(damage((lost.path / "mount.json").read_text()))
    again = places.reopen_state_directory(places.inspect_directory(lost.path), URL)
    expected = MountRecord(lost.mount_id, JOB, f"({lost.path})", URL, os.getpid(), again.record.started)
    assert (again.path, again.mount_id, again.record) == (lost.path, lost.mount_id, expected)
    assert lost.record.started <= again.record.started <= time.time()
    with pytest.raises(
        UsageError, match=f"^{lost.path} is in use by process {os.getpid()}: wait until it ends$"
    ):
        places.reopen_state_directory(places.inspect_directory(lost.path), URL)
    own = end_mount(take("/mnt/own"), journal=False)
    again.close()
    assert (take("/mnt/own").mount_id, take().mount_id) == (own.mount_id, lost.mount_id)


def test_other_state_directories_with_a_journal_or_mount_are_listed(take: Take, state: Path) -> None:
    first, second, third, fourth = take("/mnt/a"), take("/mnt/b"), take("/mnt/c"), take("/mnt/d")
    end_mount(second)
    end_mount(third, journal=False)
    end_mount(fourth, clean=True)
    ended = places.find_ended_of_job(state, JOB, first.mount_id)
    clean = {found.path: found.record and found.record.clean for found in ended}
    assert clean == {second.path: False, fourth.path: True}
    assert [found.path for found in places.find_running(state)] == [first.path]
    last_used_first = [one.path for one in (fourth, third, second, first)]
    assert [found.path for found in places.find_of_job(state, JOB)] == last_used_first
    # Where that is not known, it is left alone.
    assert places.is_in_use(places.inspect_directory(Path("/dev/null")))


def test_the_next_mount_removes_the_remains_of_a_killed_merge(take: Take) -> None:
    """vfs/semantics.md 4.60: three versions of a file, of up to 16 MiB each."""
    one = end_mount(take())
    left, other = one.path / f"{MERGING}x1y2", one.path / f"{MERGING}file"
    left.mkdir()
    (left / "ours").write_bytes(b"ours")
    other.touch()
    assert take().path == one.path
    assert not left.exists()
    assert other.exists(), "what is no directory of a merge stays, and stops no mount"
    left.mkdir()
    take("/mnt/b")
    assert left.exists(), "a merge in a mount that runs goes on when another mount starts"
    assert (one.path / "bytes").is_dir()


@pytest.mark.parametrize("place", ["/proc/no-such-place", "/dev/null/state"])
def test_a_state_directory_that_cannot_be_written_is_reported(place: str) -> None:
    with pytest.raises(UsageError, match=r"can't write to the state directory.*--state-dir"):
        places.acquire_state_directory(Path(place), JOB, "/mnt/a", URL)
    with pytest.raises(UsageError, match=f"can't write to the state directory {place}"):
        places.reopen_state_directory(places.inspect_directory(Path(place)), URL)


def test_a_directory_that_others_can_write_is_reported_with_its_option(take: Take, state: Path) -> None:
    """design.md, Whom you need not trust: the message says what the directory is for, and how to move it."""
    take()
    (state / JOB).chmod(0o777)
    said = f"the state directory {state / JOB}: other users may write to {state / JOB}: run chmod go-w {state / JOB}"
    with pytest.raises(UsageError, match=f"^{said}, or give another with --state-dir$"):
        take("/mnt/b")


def test_a_starting_mount_waits_only_for_readers_of_the_directory(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of twenty mounts starts as fast as the first."""
    *_, free = [take(f"/mnt/{number}") for number in range(4)]
    end_mount(free)
    with (free.path / "lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        waits: list[float] = []
        monkeypatch.setattr(time, "sleep", lambda wait: look.close() or waits.append(wait))  # type: ignore[func-returns-value]
        assert take("/mnt/new").mount_id == free.mount_id
    assert [0 < wait < 1 for wait in waits] == [True]


def test_only_one_of_several_starting_mounts_gets_the_directory(take: Take) -> None:
    with ThreadPoolExecutor(8) as pool:
        refused = [made.exception() for made in [pool.submit(take, "/mnt/a b") for _ in range(8)]]
    assert sum(not error for error in refused) == 1
    said = f"/mnt/a b still runs (process {os.getpid()}), perhaps sending its last files: see `jobfs status '/mnt/a b'`"
    assert sum(said in str(error) for error in refused) == 7
