"""`jobfs recover JOB --save TO`: what it prints, and where each copy is (vfs/semantics.md 6, Unsent files without a server)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from tests.support.files import on_disk

from jobfs.errors import UsageError
from jobfs.nodes import Kind
from jobfs.state import destination
from jobfs.state import directory as directories
from jobfs.state.journal import Journal
from jobfs.state.localbytes import generation_path
from jobfs.state.records import File

from .world import JOB, URL, Outcome, Run

Leave = Callable[..., Path]


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "to"


@pytest.fixture
def leave(tmp_path: Path) -> Leave:
    """Have an ended mount at `directory` with these unsent files; the state directory."""

    def leave(directory: str, files: dict[str, bytes | None]) -> Path:
        place = directories.acquire_state_directory(tmp_path / "state/jobfs", JOB, directory, URL)
        journal = Journal(place.path / "journal.db")
        for ino, (path, content) in enumerate(files.items(), start=1):
            if content is None:
                journal.write((File(ino, Kind.DIRECTORY, path=path), {}))
            else:
                generation_path(place.path / "bytes", ino, ino).write_bytes(content)
                journal.write((File(ino, path=path, generation=ino, size=len(content)), {}))
        journal.close()
        place.close()
        return place.path

    return leave


def test_unsent_files_are_copied_and_listed_without_a_key(run: Run, leave: Leave, to: Path) -> None:
    """vfs/semantics.md 6.19: names that the job has chosen are quoted."""
    leave("/mnt/a", {"notes.md": b"notes", "dir": None, "dir/it's\x1b[31m": b""})
    assert run("recover", JOB, "--save", to) == Outcome(
        0,
        f"copied: dir/\ncopied: notes.md (5B)\ncopied: $'dir/it\\047s\\033\\13331m' (0B)\n3 copied to {to}\n",
        "",
    )
    assert on_disk(to) == {"dir": None, "dir/it's\x1b[31m": b"", "notes.md": b"notes"}


def test_an_existing_entry_is_refused_and_the_rest_is_copied(run: Run, leave: Leave, to: Path) -> None:
    """vfs/semantics.md 6.19."""
    leave("/mnt/a", {"a": b"ours", "b/c": b"ours", "d": b"ours"})
    to.mkdir()
    (to / "a").write_bytes(b"theirs")
    (to / "b").write_bytes(b"theirs")
    assert run("recover", JOB, "--save", to) == Outcome(
        1,
        f"copied: d (4B)\n1 copied to {to}\n",
        f"jobfs: a is not copied: {to}/a exists\njobfs: b/c is not copied: Not a directory\n",
    )
    assert on_disk(to) == {"a": b"theirs", "b": b"theirs", "d": b"ours"}
    again = run("recover", JOB, "--save", to)
    assert (again.code, again.out, again.err.count(" is not copied: ")) == (1, "", 3)


def test_two_mounts_with_the_same_paths_are_both_copied(run: Run, leave: Leave, to: Path) -> None:
    """vfs/semantics.md 6.21."""
    first = leave("/mnt/a", {"same": b"of a", "x": b"a file", "y/z": b"a file", "only": b"a", "d": None})
    held = directories.reopen_state_directory(directories.inspect_directory(first), URL)
    second = leave("/mnt/b", {"same": b"of b", "x/in": b"below", "y": b"a file", "d": None})
    held.close()
    done = run("recover", JOB, "--save", to)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "copied: d/", "copied: same (4B)", "copied: x/in (5B)", "copied: y (6B)",
        "copied: d/", f"copied: {first.name}/same (4B): same of the mount at /mnt/a",
        f"copied: {first.name}/x (6B): x of the mount at /mnt/a",
        f"copied: {first.name}/y/z (6B): y/z of the mount at /mnt/a", "copied: only (1B)", f"9 copied to {to}",
    ]  # fmt: skip
    assert second != first
    copied = {path: content for path, content in on_disk(to).items() if content is not None}
    mount = first.name
    assert copied == {
        "same": b"of b", "x/in": b"below", "y": b"a file", "only": b"a",
        f"{mount}/same": b"of a", f"{mount}/x": b"a file", f"{mount}/y/z": b"a file",
    }  # fmt: skip


def test_a_refused_entry_does_not_block_that_of_another_mount(run: Run, leave: Leave, to: Path) -> None:
    """vfs/semantics.md 6.21."""
    first = leave("/mnt/a", {"same": b"of a"})
    held = directories.reopen_state_directory(directories.inspect_directory(first), URL)
    leave("/mnt/b", {"same": b"of b"})
    held.close()
    to.mkdir()
    (to / "same").write_bytes(b"the user's")
    assert run("recover", JOB, "--save", to).code == 1
    assert on_disk(to) == {"same": b"the user's", first.name: None, f"{first.name}/same": b"of a"}


def test_a_running_mount_is_refused_and_none_can_start_during_a_copy(
    run: Run, leave: Leave, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 6.19."""
    place = leave("/mnt/a", {"a": b"x"})
    found = directories.inspect_directory(place)
    held = directories.reopen_state_directory(found, URL)
    refused = "jobfs: the mount at /mnt/a is running, and sends its own files: they are not copied\n"
    assert run("recover", JOB, "--save", to) == Outcome(1, "", refused)
    assert not to.exists()
    held.close()
    seen: list[tuple[bool, bool]] = []

    def copy(*_: object) -> None:
        with pytest.raises(UsageError, match="is in use"):
            directories.reopen_state_directory(found, URL)
        with directories.exclude_mounts(found) as another:
            seen.append((directories.is_in_use(found), another))

    monkeypatch.setattr(destination, "_copy_bytes", copy)
    assert run("recover", JOB, "--save", to).code == 0
    assert seen == [(False, True)], "others may look, or copy too"


def test_bytes_without_names_are_copied_by_their_numbers(run: Run, leave: Leave, to: Path) -> None:
    """vfs/semantics.md 6.21: of a damaged journal, and where a path would lead out of TO."""
    hostile = leave(
        "/mnt/a", {"../out": b"one", "/abs": b"two", "a/../../b": b"three", "good": b"four", "../dir": None}
    )
    held = directories.reopen_state_directory(directories.inspect_directory(hostile), URL)
    damaged = leave("/mnt/b", {"lost": b"five"})
    held.close()
    (damaged / "journal.db").write_bytes(b"no database" * 100)
    done = run("recover", JOB, "--save", to)
    number = f"{1:016x}.1"
    assert (done.code, done.out.splitlines()) == (1, [
        f"copied: {damaged.name}/{number} (4B): its name is not known",
        f"copied: {hostile.name}/{number} (3B): its path ../out has a component '..'",
        f"copied: {hostile.name}/{2:016x}.2 (3B): its path /abs has a component ''",
        f"copied: {hostile.name}/{3:016x}.3 (5B): its path a/../../b has a component '..'",
        "copied: good (4B)", f"5 copied to {to}",
    ])  # fmt: skip
    assert done.err.splitlines() == [
        "jobfs: the mount at /mnt/b: its journal can't be used: file is not a database: its files are copied under their numbers",
        "jobfs: ../dir is not copied: its path ../dir has a component '..'",
    ]
    assert on_disk(to)[f"{damaged.name}/{number}"] == b"five"
    assert sorted(path.name for path in to.parent.iterdir() if path.name in ("out", "dir", "b", "abs")) == []


def test_a_journal_of_another_version_is_no_reason_to_fail(run: Run, leave: Leave, to: Path) -> None:
    """vfs/semantics.md 6.21."""
    place = leave("/mnt/a", {"lost": b"five"})
    with sqlite3.connect(place / "journal.db") as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    done = run("recover", JOB, "--save", to)
    assert (done.code, "another version of jobfs wrote it" in done.err) == (0, True)
    assert on_disk(to) == {place.name: None, f"{place.name}/{1:016x}.1": b"five"}


def test_without_unsent_files_no_directory_is_created(
    run: Run, leave: Leave, to: Path, tmp_path: Path
) -> None:
    nothing = f"nothing to copy: {tmp_path}/state/jobfs has no unsent files of job {JOB}\n"
    assert run("recover", JOB, "--save", to) == Outcome(0, nothing, "")
    leave("/mnt/a", {})
    assert run("recover", JOB, "--save", to) == Outcome(0, nothing, "")
    assert not to.exists()


@pytest.mark.parametrize(("part", "copied", "said"), [
    ("state.destination._copy_bytes", "", "{name} is not copied: no room"),
    ("cli.salvage.read_unsent", "", "can't copy the files of the mount at /mnt/a: no room"),
    ("state.destination.sync_directory", "copied: a (1B)\n1 copied to {to}\n", "can't sync the copies to the disk: no room"),
])  # fmt: skip
def test_a_file_that_the_disk_refuses_is_reported(
    run: Run, leave: Leave, to: Path, monkeypatch: pytest.MonkeyPatch, part: str, copied: str, said: str
) -> None:
    """vfs/semantics.md 6.19: 1 if something could not be copied; half a copy does not stay."""
    leave("/mnt/a", {"a": b"x"})
    monkeypatch.setattr(f"jobfs.{part}", Mock(side_effect=OSError(28, "no room")))
    done = run("recover", JOB, "--save", to)
    assert done == Outcome(1, copied.format(to=to), f"jobfs: {said.format(name='a')}\n")
    assert (to / "a").exists() is bool(copied)
