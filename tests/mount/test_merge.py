"""`jobfs merge`: merge the changes of a person and the job, or change nothing and print the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.mounts import Mount, MountedJob
from tests.support.programs import needs_all, paused, program
from tests.support.serverside import contents, doubled, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

pytestmark = pytest.mark.needs_program("git")

LINES = "".join(f"line {number:02}\n" for number in range(12))
MINE, JOBS = LINES.replace("line 02", "mine"), LINES.replace("line 09", "the job's")
BOTH = MINE.replace("line 09", "the job's")
#: Programs that save in different ways: over the file, by a rename, by children, with backups.
EDITORS = ("python", "python, by a rename", "shell", "sed -i", "vim", "vim, backup by a rename")


def write_both(server: Server, mounted: MountedJob, name: str = "notes.md") -> str:
    """Save a file in place while the job writes it; return the name of the conflict copy."""
    path = mounted.path / name
    if not server.store.exists(name):
        server.store.seed({name: LINES}, age=60)
    eventually(lambda: path.exists() and path.read_text() == LINES)
    with path.open("r+") as file:
        text = file.read()
        server.store.write(name, JOBS)
        file.seek(0)
        file.write(text.replace("line 02", "mine"))
        file.truncate()
    mounted.wait_until_settled()
    (copy,) = (path for path in visible(server) if path.startswith(f"{name.removesuffix('.md')}.conflict-"))
    return copy


def merge(mounted: MountedJob, name: str, *options: str) -> tuple[int, str, str]:
    done = mounted.jobfs("merge", *options, "--", mounted.path / name)
    return done.returncode, done.stdout, done.stderr


def bases(mounted: MountedJob) -> list[Path]:
    """Return the versions that the mount keeps for merges."""
    return list(mounted.state.glob("*/*/bases/[0-9]*"))


@needs_all(map(program, EDITORS))
def test_changes_of_both_sides_are_merged_however_saved(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.21, 4.57, 4.61: what both began with is at hand; the status names the command, though names are cut."""
    notes = {mounted.path / f"{number}{'n' * 230}.md": program(name) for number, name in enumerate(EDITORS)}
    server.store.seed({path.name: LINES for path in notes}, age=60)
    with paused(mounted.home, tmp_path, notes, "mine"):
        for path in notes:
            server.store.write(path.name, JOBS)
    mounted.wait_until_settled()
    commands = {conflict["merge"] for conflict in mounted.status()["conflicts"]}
    assert commands == {f"jobfs merge {path}" for path in notes}
    for path, editor in notes.items():
        assert merge(mounted, path.name) == (0, "", ""), editor.name
        # Each adds its line at one of the ends.
        merged = server.store.read(path.name).decode().splitlines()
        assert sorted(merged) == sorted([*JOBS.splitlines(), "mine"]), editor.name
    mounted.wait_until_settled()
    assert visible(server).keys() == {path.name for path in notes}
    assert (mounted.status()["conflicts"], doubled(server), bases(mounted)) == ([], [], [])


@pytest.mark.parametrize("how", ["write", "replace"])
def test_a_merge_keeps_the_jobs_write_to_a_file_that_had_the_whole_copy(
    server: Server, mount: Mount, how: str
) -> None:
    """vfs/semantics.md 4.57: the bytes that were read of FILE may be as old as a lookup, and the only ones like the copy's."""
    mounted = mount(ttl=30)
    write_both(server, mounted)
    (mounted.path / "notes.md").write_text(BOTH)
    mounted.wait_until_settled()
    getattr(server.store, how)("notes.md", b"something else\n")
    assert merge(mounted, "notes.md") == (0, "", "")
    mounted.wait_until_settled()
    assert server.store.read("notes.md") == BOTH.encode()
    assert contents(server) == sorted([BOTH.encode(), b"something else\n"])


def slow_git(mounted: MountedJob, script: str) -> None:
    """Run a shell script before each git of `jobfs merge`."""
    place = mounted.home / "bin"
    place.mkdir()
    (place / "git").write_text(f'#!/bin/sh\n{script}\nexec {shutil.which("git")} "$@"\n')
    (place / "git").chmod(0o755)
    mounted.variables["PATH"] = f"{place}:{os.environ['PATH']}"


@contextmanager
def during_the_merge(mounted: MountedJob, act: Callable[[], object]) -> Iterator[None]:
    """Have git wait, once, until `act` was called."""
    turn = mounted.home / "turn"
    slow_git(mounted, f"touch {turn}; while [ -e {turn} ]; do sleep 0.01; done")

    def take_turn() -> None:
        eventually(turn.exists)
        act()
        turn.unlink()

    with ThreadPoolExecutor() as pool:
        acting = pool.submit(take_turn)
        yield
        acting.result()
    del mounted.variables["PATH"]


@pytest.mark.parametrize("line", ["later", "line 05"])
def test_a_copy_that_changed_since_its_read_is_kept(server: Server, mounted: MountedJob, line: str) -> None:
    """vfs/semantics.md 4.57: FILE has what was read; the exit code is 1. The same bytes are another version, too."""
    copy = write_both(server, mounted)
    later = JOBS.replace("line 05", line)
    with during_the_merge(mounted, lambda: server.store.write(copy, later)):
        report = f"jobfs: {mounted.path}/{copy} was merged, but has changed since it was read: it is kept\n"
        assert merge(mounted, "notes.md") == (1, "", report)
    assert visible(server) == {"notes.md": BOTH.encode(), copy: later.encode()}
    eventually(lambda: line in (mounted.path / copy).read_text())
    assert merge(mounted, "notes.md") == (0, "", "")
    assert visible(server) == {"notes.md": BOTH.replace("line 05", line).encode()}


@pytest.mark.parametrize(
    ("before", "program", "after"),
    [
        (MINE, "echo more >>", f"{MINE}more\n"),
        (BOTH, "echo other >", "other\n"),
        (MINE, "sed -i s/line/LINE/", MINE.replace("line", "LINE")),
    ],
    ids=["a merge of both", "a file that had the whole copy", "a change that keeps the size"],
)
def test_a_file_that_a_program_writes_during_the_merge_is_left_alone(
    server: Server, mounted: MountedJob, before: str, program: str, after: str
) -> None:
    """vfs/semantics.md 4.57: what the program has written would be lost."""
    copy = write_both(server, mounted)
    (mounted.path / "notes.md").write_text(before)
    mounted.wait_until_settled()
    slow_git(mounted, f"{program} {mounted.path}/notes.md")
    report = f"jobfs: {mounted.path}/notes.md has changed since it was read: run jobfs merge again\n"
    assert merge(mounted, "notes.md") == (1, "", report)
    mounted.wait_until_settled({"notes.md": after.encode(), copy: JOBS.encode()})
    assert sorted(os.listdir(mounted.path)) == [copy, "notes.md"], "no scratch name is left"


def test_a_merge_works_after_a_kill_and_with_any_name(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.61: the version that both began with survives a kill; names that need quoting."""
    names = ("notes.md", "-p", "it's $(here)", "dir/ü \t.md")
    copies = {write_both(server, mounted, name) for name in names}
    mounted.kill()
    mounted.mount()
    shutil.rmtree(mounted.cache, ignore_errors=True)
    for name in names:
        assert merge(mounted, name) == (0, "", "")
        assert server.store.read(name) == BOTH.encode()
    assert not copies & visible(server).keys()


def test_several_copies_are_merged_oldest_first_and_as_edited(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.57: an edit of a copy here is merged, too; 4.61: its base has the path of the copy."""
    first = write_both(server, mounted)
    with (mounted.path / "notes.md").open("r+") as file:
        text = file.read()
        server.store.write("notes.md", BOTH.replace("line 05", "more of the job"))
        file.seek(0)
        file.write(text.replace("line 07", "more of mine"))
    mounted.wait_until_settled()
    assert len(mounted.status()["conflicts"]) == 2
    mounted.remount(write_back_delay=30)
    (mounted.path / first).write_text(JOBS.replace("line 11", "edited"))
    merged = BOTH.replace("line 11", "edited").replace("line 05", "more of the job")
    assert merge(mounted, "notes.md") == (0, "", "")
    mounted.wait_until_settled({"notes.md": merged.replace("line 07", "more of mine").encode()})


def test_overlapping_changes_are_shown_and_change_nothing(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.58: exit code 1; `-n` has git's marks where lines overlap, the workspace never has."""
    copy = write_both(server, mounted)
    server.store.write(copy, LINES.replace("line 02", "not mine"))
    before = visible(server)
    eventually(lambda: (mounted.path / copy).read_bytes() == before[copy])
    report = f"jobfs: {mounted.path}/{copy} is not merged: both changed the same lines, in 1 place"
    more = f": jobfs merge -n {mounted.path}/notes.md shows them\n"
    assert merge(mounted, "notes.md") == (1, "", report + more)
    marked = f"<<<<<<< {mounted.path}/notes.md\nmine\n=======\nnot mine\n>>>>>>> {mounted.path}/{copy}\n"
    assert merge(mounted, "notes.md", "-n") == (1, MINE.replace("mine\n", marked), f"{report}\n")
    mounted.wait_until_settled(before)


def test_copies_without_a_base_here_are_listed_oldest_first(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.57, 4.58: by the times in their names, and the numbers of those of one second; nothing is changed."""
    times = ("20240501T120000Z", "20250501T120000Z", "20250501T120000Z-2", "20250501T120000Z-10")
    copies = [mounted.path / f"notes.conflict-{time}.md" for time in times]
    other = "notes.recovered-20240501T120000Z.md"  # no conflict copy
    server.store.seed(dict.fromkeys(("notes.md", other, *(copy.name for copy in copies)), LINES), age=60)
    reason = "is not merged: the version that both started from is not on this machine"
    report = "".join(f"jobfs: {copy} {reason}\n" for copy in copies)
    assert merge(mounted, "notes.md") == (1, "", report)
    assert {conflict["merge"] for conflict in mounted.status()["conflicts"]} == {None}
    assert server.log.changes() == []


def test_a_file_over_the_limit_is_not_merged(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.58: no part of it is saved in its place, although the changes do not overlap."""
    write_both(server, mounted)
    with (mounted.path / "notes.md").open("a") as file:
        file.write("one line more\n" * (2 << 20))
    mounted.wait_until_settled()
    before = visible(server)
    report = f"jobfs: {mounted.path}/notes.md is larger than 16MiB: nothing is merged\n"
    assert merge(mounted, "notes.md") == (1, "", report)
    mounted.wait_until_settled(before)


def test_merging_a_copy_that_has_copies_is_refused(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.58: until those are merged."""
    copy = write_both(server, mounted)
    server.store.delete(copy)
    inner = write_both(server, mounted, copy)
    report = f"jobfs: {mounted.path}/{copy} has conflict copies itself: run jobfs merge {mounted.path}/{copy} first\n"
    before = visible(server)
    assert merge(mounted, "notes.md") == (1, "", report)
    assert visible(server) == before
    assert merge(mounted, copy) == (0, "", "")
    assert inner not in visible(server)


def test_what_cannot_be_merged_is_exit_code_2(server: Server, mounted: MountedJob, tmp_path: Path) -> None:
    """vfs/semantics.md 4.59: no file of a mount, readOnly, a read-only mount, no git; 4.57: without copies it is done."""
    copy = write_both(server, mounted)
    server.store.seed({"dir/alone": "x"}, age=60)
    place, before = mounted.path, visible(server)
    eventually((place / "dir/alone").exists)
    assert merge(mounted, "dir/alone") == (0, "", f"jobfs: {place}/dir/alone has no conflict copies\n")

    def refusal(name: str | Path = "notes.md") -> str:
        code, out, err = merge(mounted, str(name))
        assert (code, out) == (2, "")
        return err.removeprefix("jobfs: ").rstrip()

    assert refusal("dir") == f"{place}/dir is a directory: give a file"
    assert refusal("never") == f"{place}/never is not a file in the job: give a file in the mount"
    assert refusal(tmp_path / "file") == f"no job is mounted at {tmp_path}/file"
    mounted.variables["PATH"] = str(tmp_path)
    assert refusal() == "merging needs git: install the package git"
    del mounted.variables["PATH"]
    for path in (place / "notes.md", place / copy):
        path.chmod(0o444)
        assert refusal() == f"{path} is readOnly in the job: run chmod u+w {path} first"
        path.chmod(0o644)
    mounted.remount(read_only=True)
    assert refusal() == f"{place}/notes.md is mounted read-only: mount the job without --read-only"
    assert merge(mounted, "notes.md", "-n") == (0, BOTH, "")
    assert visible(server) == before
