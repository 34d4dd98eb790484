"""Programs that read a file and save it later, the job writing in between (vfs/semantics.md 4, What a save replaces)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from tests.support.clocks import ClockedMount
from tests.support.holders import python
from tests.support.mounts import MountedJob, gone_afterwards, run
from tests.support.programs import PROGRAMS as EVERY
from tests.support.programs import Program, needs_all, paused
from tests.support.serverside import untimed, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

OLD, JOB = b'"old"\n', b'"the job\'s text, which nobody has read"\n'

MINE = b"mine\n"
PROGRAMS = {f"file{number}": each for number, each in enumerate(EVERY) if each.reads and each.replaces}


@contextmanager
def _edited(mounted: MountedJob, desk: Path, programs: Mapping[str, Program]) -> Iterator[None]:
    """Each program has read its file, and waits; after the block each saves, and all is sent."""
    mounted.server.store.seed(dict.fromkeys(programs, OLD), age=60)
    with paused(mounted.home, desk, {mounted.path / file: each for file, each in programs.items()}, "mine"):
        yield
    mounted.wait_until_settled()


def _versions(server: Server, programs: Mapping[str, Program]) -> dict[str, list[bytes]]:
    """Return, by program, the lines of its file, sorted, and then its second versions."""
    tree = {path: data or b"" for path, data in visible(server).items()}
    return {
        each.name: [
            b"".join(sorted(tree.pop(file).splitlines(keepends=True))),
            *[data for path, data in tree.items() if path.startswith(f"{file}.conflict")],
        ]
        for file, each in programs.items()
    }


def _shows(path: Path, content: bytes) -> bool:
    """True if the file has that size; it is not opened."""
    return path.stat().st_size == len(content)


def _loses_nothing_unread(
    mounted: MountedJob,
    desk: Path,
    programs: Mapping[str, Program],
    before: Callable[[], object],
    *,
    shown: bool,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Each program reads its file; the job writes all files, between `before` and `after`; each program saves: both are kept."""
    with _edited(mounted, desk, programs):
        before()
        for file in programs:
            mounted.server.store.write(file, JOB)
        for file in programs if shown else ():
            eventually(partial(_shows, mounted.path / file, JOB))
        after()
    versions = _versions(mounted.server, programs)
    assert {name: found for name, found in versions.items() if found != [OLD + MINE, JOB]} == {}


@pytest.mark.needs_fuse
@pytest.mark.parametrize(
    ("shown", "hours"),
    [
        pytest.param(False, 0, marks=needs_all(PROGRAMS.values()), id="at once"),
        pytest.param(True, 0, marks=needs_all(PROGRAMS.values()), id="after the TTL"),
        pytest.param(True, 1, id="after an hour"),
    ],
)
def test_a_save_keeps_a_version_its_program_has_not_read(
    server: Server, tmp_path: Path, shown: bool, hours: int
) -> None:
    """vfs/semantics.md 4.42, 4.43, 4.45, 4.46, 4.48: the job's version, which no program has read, is kept beside.

    A daemon, or an editor, may save an hour after its read: what a program has read does not depend on the time.
    """
    programs = {
        file: each
        for file, each in PROGRAMS.items()
        if not (each.discards or (each.slow and (hours or not shown)) or (each.needs and hours))
    }
    with gone_afterwards(ClockedMount(server, tmp_path / "home")) as mounted:
        _loses_nothing_unread(
            mounted, tmp_path, programs, lambda: mounted.let_pass(hours * 3600), shown=shown
        )


@needs_all(PROGRAMS.values())
@pytest.mark.parametrize("job_writes", ["before the end", "without a mount", "to the next mount"])
@pytest.mark.parametrize("end", [MountedJob.kill, MountedJob.umount], ids=["killed", "unmounted"])
def test_a_save_through_the_next_mount_keeps_an_unread_version(
    mounted: MountedJob, tmp_path: Path, end: Callable[[MountedJob], None], job_writes: str
) -> None:
    """vfs/semantics.md 4.63: of a program that outlives the mount through which it has read its file."""
    programs = {
        file: each for file, each in PROGRAMS.items() if not (each.discards or each.slow or each.keeps_open)
    }

    def restart() -> None:
        end(mounted)
        mounted.mount()

    happens: dict[str, tuple[Callable[[], object], bool, Callable[[], object]]] = {
        "before the end": (lambda: None, True, restart),
        "without a mount": (partial(end, mounted), False, mounted.mount),
        "to the next mount": (restart, True, lambda: None),
    }
    before, shown, after = happens[job_writes]
    _loses_nothing_unread(mounted, tmp_path, programs, before, shown=shown, after=after)


@pytest.mark.parametrize("end", [MountedJob.kill, MountedJob.umount], ids=["killed", "unmounted"])
def test_a_shell_that_outlives_the_mount_makes_no_needless_copy(
    server: Server, mounted: MountedJob, end: Callable[[MountedJob], None]
) -> None:
    """vfs/semantics.md 4.44, 4.63: over a file that is as it was read or saved, or that no program near it has read."""
    names = ("read", "read_by_child", "saved", "renamed", "untouched", "copied", "of_the_job", "made")
    server.store.seed(dict.fromkeys(names[:-1], OLD), age=60)
    with subprocess.Popen(
        ["bash", "-e"], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None

        def do(*commands: str) -> None:
            print(f"cd {mounted.path}", *commands, "cd /; echo done", sep="\n", file=shell.stdin, flush=True)
            assert shell.stdout is not None
            assert shell.stdout.readline() == "done\n"

        try:
            do("text=$(<read)", "text=$(cat read_by_child)", "text=$(<saved)", "echo 1 >saved")
            do("text=$(<renamed)", "mv renamed later", "mv later renamed", "echo 1 >made")
            mounted.wait_until_settled()
            end(mounted)
            server.store.write("of_the_job", JOB)
            mounted.mount()
            do(*[f"echo 2 >{name}" for name in names if name != "copied"], "echo 2 | cp /dev/stdin copied")
            mounted.wait_until_settled()
            assert visible(server) == dict.fromkeys(names, b"2\n")
        finally:
            shell.kill()


@needs_all(PROGRAMS.values())
def test_a_save_makes_no_conflict_copy_where_the_job_wrote_nothing(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.44: what this mount has placed needs no reader."""
    programs = {file: each for file, each in PROGRAMS.items() if not each.slow}
    with _edited(mounted, tmp_path, programs):
        pass
    assert _versions(server, programs) == {each.name: [OLD + MINE] for each in programs.values()}


@pytest.mark.needs_program("perl")
def test_programs_that_save_in_turn_make_no_conflict_copy(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.44, 4.62: who has read unsent bytes has read what they replace; a freed name is not missing there."""
    saves = ("sed -i s/$/+/", "sed -i~ s/$/+/", "perl -i~ -pe s/$/+/", "echo + >>", "echo +| tee")
    pairs = {f"file{number}": pair for number, pair in enumerate(product(saves, repeat=2))}
    server.store.seed(dict.fromkeys(pairs, OLD), age=60)
    server.faults.set_rate("unavailable", 1.0, on="create")
    for file, (one, other) in pairs.items():
        run(mounted.path, "sh", "-c", f"{one} {file}; {other} {file}; mv {file} {file}~; echo new > {file}")
    server.faults.clear()
    mounted.wait_until_settled()
    assert visible(server).keys() == pairs.keys()


def test_a_shell_that_rewrites_what_its_children_read_makes_no_copy(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.43: a program that has only written a file knows what its children have read since."""
    turns = 4
    server.store.seed({"file": OLD}, age=60)
    turn = 'x=$(cat file); echo "$x s" >file; touch $0/done$i; until [ -e $0/go$i ]; do sleep 0.02; done'
    script = f"for i in $(seq {turns}); do {turn}; done"
    with subprocess.Popen(["bash", "-c", script, tmp_path], cwd=mounted.path) as shell:
        try:
            for number in range(1, turns + 1):
                eventually((tmp_path / f"done{number}").exists, f"turn {number}")
                mounted.wait_until_settled()
                server.store.write("file", JOB * number)
                eventually(partial(_shows, mounted.path / "file", JOB * number))
                (tmp_path / f"go{number}").touch()
            assert shell.wait(60) == 0
        finally:
            shell.kill()
    assert visible(server) == {"file": JOB * turns}


@pytest.mark.parametrize("shown", [False, True], ids=["at once", "after the TTL"])
@pytest.mark.parametrize("flags", [0, os.O_TRUNC], ids=["as vim", "as a shell"])
def test_a_file_made_at_a_name_that_was_missing_is_kept(
    server: Server, mounted: MountedJob, flags: int, shown: bool
) -> None:
    """vfs/semantics.md 4.62: a program that has found nothing there replaces nothing that it has not read."""
    with python(mounted.path) as writer:
        assert writer.does("assert not os.path.exists('file')") == "ok"
        server.store.write("file", JOB)
        if shown:
            eventually(lambda: (mounted.path / "file").exists())
        assert (
            writer.does(f"fd = os.open('file', os.O_WRONLY | os.O_CREAT | {flags}); os.ftruncate(fd, 0)")
            == "ok"
        )
        assert writer.does(f"os.write(fd, {MINE!r}); os.close(fd)") == "ok"
    mounted.wait_until_settled()
    assert untimed(visible(server)) == {"file": MINE, "file.conflict": JOB}
