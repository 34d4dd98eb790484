"""The job writes to a file at any instant of its save here: both contents exist afterwards, the user's under the name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.serverside import contents, doubled, visible
from tests.support.waiting import eventually

from jobfs.emulator import JobSide, Server, StoredItem

OLD, USERS = b"the old content", b"what the user has written"
#: As long as the old one: only its bytes tell that it is another.
JOBS = b"what a job made"


def overwrite(job: JobSide) -> None:
    job.write("dir/file.txt", JOBS)


def replace(job: JobSide) -> None:
    if job.exists("dir/file.txt"):
        job.replace("dir/file.txt", JOBS)
    else:
        overwrite(job)


def delete(job: JobSide) -> None:
    if job.exists("dir/file.txt"):
        job.delete("dir/file.txt")


def create_again(job: JobSide) -> None:
    if not job.exists("dir/file.txt"):
        job.seed({"dir/file.txt": JOBS})


def rename_away(job: JobSide) -> None:
    """The job moves the file elsewhere, and makes another one of its name."""
    if job.exists("dir/file.txt"):
        job.move("dir/file.txt", "elsewhere.txt")
    job.seed({"dir/file.txt": JOBS})


@contextmanager
def started(server: Server, home: Path, boundaries: Boundaries) -> Iterator[Mortal]:
    work = Mortal(server, home, boundaries)
    work.start()
    try:
        yield work
    finally:
        work.end()


@contextmanager
def saved(
    server: Server, home: Path, boundaries: Boundaries, other: Mortal | None = None
) -> Iterator[Mortal]:
    """A mount that has saved the file and come to rest; something happened at one of the boundaries.

    An `other` mount has read the file just before.
    """
    with started(server, home, boundaries) as work:
        assert other is None or other.read("dir/file.txt") == OLD
        fh = work.opened("dir/file.txt")
        work.vfs.write(fh, USERS, 0)
        work.work(lambda: work.vfs.fsync(fh))
        work.vfs.release(fh)
        work.settle()
        yield work


def interfered(
    server: Server, home: Path, at: int, act: Callable[[JobSide], None]
) -> tuple[Boundaries, list[bytes]]:
    """A save with the job acting at boundary `at`; returns what the job has made, unless the save was done before."""
    server.store.clear()
    server.store.seed({"dir/file.txt": OLD, "dir/other": b"untouched"}, age=60)
    made: list[bytes] = []

    def bytes_of(item: StoredItem) -> bytes:
        with suppress(KeyError, OSError):  # a directory, or gone meanwhile
            return server.store.content_of(item.id)
        return b""

    def job() -> None:
        if USERS not in [server.store.content_of(item.id) for item in server.store.items_at("dir/file.txt")]:
            act(server.store)
            # Nobody else makes these bytes, whatever the save does at the same time.
            made.extend(content for item in server.store.items() if (content := bytes_of(item)) == JOBS)

    boundaries = Boundaries(at, job, journal=False)
    with saved(server, home, boundaries) as work:
        where = f"{act.__name__} at {at}, {boundaries.last}, of {boundaries.passed}: {visible(server)}"
        assert server.store.read("dir/file.txt") == USERS, where
        assert server.store.read("dir/other") == b"untouched", where
        there = [content for content in contents(server) if not (act is rename_away and content == OLD)]
        assert there == sorted([b"untouched", USERS, *made]), where
        assert doubled(server) == [], where
        assert work.read("dir/file.txt") == USERS, where
        if made:
            kept = [path for path, content in visible(server).items() if content == JOBS]
            assert kept[0].startswith("dir/file.conflict-"), where
            assert kept[0].endswith(".txt"), where
            assert work.read(kept[0]) == JOBS, where
    return boundaries, made


@pytest.mark.parametrize("move_touches", ["item", "no"])
@pytest.mark.parametrize("act", [overwrite, replace, delete, create_again, rename_away])
def test_whenever_the_job_interferes_both_contents_are_kept(
    server: Server, tmp_path: Path, act: Callable[[JobSide], None], move_touches: str
) -> None:
    """vfs/semantics.md 4.20: the user's save wins the name, the job's bytes are kept and visible."""
    server.set(move_touches=move_touches)
    conflicts = 0
    for at in count(1):
        boundaries, made = interfered(server, tmp_path / f"{at}", at, act)
        conflicts += len(made)
        if not boundaries.struck:
            break
    assert boundaries.surround(4), boundaries.passed
    assert bool(conflicts) is (act is not delete)


@pytest.mark.parametrize("new", [False, True], ids=["save in place", "new file"])
def test_whenever_the_job_removes_the_directory_the_save_brings_it_back(
    server: Server, tmp_path: Path, new: bool
) -> None:
    """vfs/semantics.md 4.22: if the target was deleted meanwhile, the save brings it back, with its directory."""
    for at in count(1):
        server.store.clear()
        server.store.seed({"dir/other": b"the job's", **({} if new else {"dir/file.txt": OLD})}, age=60)

        def act() -> None:
            if server.store.exists("dir"):
                server.store.delete("dir")

        boundaries = Boundaries(at, act, journal=False)
        with saved(server, tmp_path / f"{at}", boundaries):
            tree = visible(server)
            where = f"at {at}, {boundaries.last} of {boundaries.passed}: {tree}"
            if "dir/file.txt" in tree:
                assert tree["dir/file.txt"] == USERS, where
            else:
                # It was there, with all else in the directory, when the job removed it.
                assert tree == {}, where
                assert not boundaries.struck or boundaries.passed.index("before update") < at, where
            assert doubled(server) == [], where
        if not boundaries.struck:
            break
    assert boundaries.surround(2 if new else 4), boundaries.passed


def saves(other: Mortal, seen: list[bool]) -> None:
    """The other mount saves the file; `seen`: whether what it replaces may be the user's."""
    there = [other.server.store.content_of(item.id) for item in other.server.store.items_at("dir/file.txt")]
    seen.append(USERS in there)
    other.write("dir/file.txt", JOBS, fsync=True)


def test_whenever_another_mount_saves_the_same_file_both_contents_are_kept(
    server: Server, tmp_path: Path
) -> None:
    """vfs/semantics.md 6.12: several machines may mount one job at once: every rule holds between them too."""
    kept = both = 0
    for at in count(1):
        server.store.clear()
        server.store.seed({"dir/file.txt": OLD}, age=60)
        home = tmp_path / f"{at}"
        seen: list[bool] = []
        with started(server, home / "other", Boundaries()) as other:
            boundaries = Boundaries(at, partial(saves, other, seen), journal=False)
            with saved(server, home / "work", boundaries, other) as work:
                other.settle()
                where = f"at {at}, {boundaries.last} of {boundaries.passed}: {visible(server)}"
                # The other mount may replace a version that it had seen.
                there = server.store.read("dir/file.txt")
                assert USERS in contents(server) or (seen, there) == ([True], JOBS), where
                if boundaries.struck:
                    # One of them may have been saved over the other that it had seen; else both are there.
                    assert there in (USERS, JOBS), where
                    # The version that both replaced is at most kept once too often: nobody can always tell which had seen it.
                    assert set(contents(server)) <= {USERS, JOBS, OLD}, where
                    kept += JOBS in contents(server)
                    both += USERS in contents(server)
                assert doubled(server) == [], where
                eventually(lambda work=work, other=other: work.names("dir") == other.names("dir"), where)  # type: ignore[misc]
        if not boundaries.struck:
            break
    assert boundaries.surround(4), boundaries.passed
    assert (kept, both > 1) == (at - 1, True)
