"""`jobfs merge`: merge the changes of a person and the job, or change nothing and print the reason."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.mounts import Mount, MountedJob, mounting, run
from tests.support.serverside import contents, doubled, visible
from tests.support.waiting import eventually

from jobfs.emulator import Behaviour, EmulatorConfig, Server, running

_PYTHON = shlex.quote(sys.executable)
LINES = "".join(f"line {number}\n" for number in range(12))
MINE, JOBS = LINES.replace("line 2", "mine"), LINES.replace("line 9", "the job's")
BOTH = MINE.replace("line 9", "the job's")

#: How programs write `MINE` while the job writes `JOBS`: `$0` is the file, `$job` lets the job write.
PROGRAMS = {
    "vim": """vim -u NONE -N -es -c '%s/line 2/mine/' -c '!$job' -c 'w!' -c q "$0" """,
    "vim, which renames": """vim -u NONE -N -es --cmd 'set backupcopy=no' -c '%s/line 2/mine/' -c '!$job' -c 'w!' -c q "$0" """,
    "sed": """sed "s/line 2/mine/; 1e $job" "$0" > "$0.new"; mv "$0.new" "$0" """,
    "shell": """new=$(sed 's/line 2/mine/' "$0"); $job; echo "$new" > "$0" """,
    "python, in place": f"""{_PYTHON} -c '
import os, sys
with open(sys.argv[1], "r+") as file:
    text = file.read().replace("line 2", "mine"); os.system(os.environ["job"])
    file.seek(0); file.write(text); file.truncate()' "$0" """,
    "VS Code": f"""{_PYTHON} -c '
import os, sys
text = open(sys.argv[1]).read().replace("line 2", "mine"); os.system(os.environ["job"])
with open(sys.argv[1], "w") as file:
    file.write(text); file.flush(); os.fsync(file.fileno())' "$0" """,
    "append": f"""{_PYTHON} -c '
import os, sys
with open(sys.argv[1], "a+") as file:
    file.seek(0); file.read(); os.system(os.environ["job"]); file.write("mine\\n")' "$0" """,
}  # fmt: skip
NAMES = ("notes.md", "-p", "it's $(here)", "dir/ü \t.md")


@contextmanager
def taking_turns(mounted: MountedJob, act: Callable[[], object]) -> Iterator[str]:
    """Lets a program wait until the job has acted, once: yields the shell command that waits."""
    turn = mounted.home / "turn"

    def wait() -> None:
        eventually(turn.exists)
        act()
        turn.unlink()

    with ThreadPoolExecutor() as pool:
        acting = pool.submit(wait)
        yield f"touch {turn}; while [ -e {turn} ]; do sleep 0.01; done"
        acting.result()


def write_both(server: Server, mounted: MountedJob, program: str, name: str = "notes.md") -> str:
    """Runs a program that saves a file while the job writes it; returns the name of the conflict copy."""
    if not server.store.exists(name):
        server.store.seed({name: LINES}, age=60)
    job = mounted.home / "job"
    with taking_turns(mounted, lambda: server.store.write(name, JOBS)) as waiting:
        job.write_text(f"#!/bin/sh\n{waiting}\n")
        job.chmod(0o755)
        words = ("env", f"job={job}", "bash", "-e", "-c", PROGRAMS[program], f"./{name}")
        run(mounted.path, *words, home=mounted.home)
    mounted.wait_until_settled()
    return conflict(server)


def conflict(server: Server) -> str:
    """The one conflict copy."""
    (name,) = [name for name in visible(server) if ".conflict-" in name]
    return name


def merge(mounted: MountedJob, name: str, *options: str) -> tuple[int, str, str]:
    done = mounted.jobfs("merge", *options, "--", mounted.path / name)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_changes_of_both_sides_are_merged_however_they_were_written(
    server: Server, mounted: MountedJob, program: str
) -> None:
    """vfs/semantics.md 4.57, 4.61: what both began with is at hand; the copy is deleted, and the status named the command."""
    expected = JOBS + "mine\n" if program == "append" else BOTH
    name = write_both(server, mounted, program)
    (report,) = mounted.status()["conflicts"]
    assert report["merge"] == f"jobfs merge {mounted.path}/notes.md"
    assert merge(mounted, "notes.md", "-n") == (0, expected, "")
    assert name in visible(server)
    assert merge(mounted, "notes.md") == (0, "", "")
    mounted.wait_until_settled()
    assert visible(server) == {"notes.md": expected.encode()}
    assert mounted.status()["conflicts"] == []
    assert doubled(server) == []
    assert list(mounted.state.glob("*/*/bases/[0-9]*")) == []


@pytest.mark.parametrize("how", ["write", "replace"])
def test_a_merge_keeps_the_jobs_write_to_a_file_that_had_the_whole_copy(
    server: Server, tmp_path: Path, how: str
) -> None:
    """vfs/semantics.md 4.57: the bytes that were read of FILE may be as old as a lookup, and the only ones like the copy's."""
    with mounting(server, tmp_path / "home", ttl=30) as mounted:
        write_both(server, mounted, "shell")
        (mounted.home / "both").write_text(BOTH)
        run(mounted.path, "bash", "-c", "cat notes.md > /dev/null; cat ../both > notes.md")
        mounted.wait_until_settled()
        assert run(mounted.path, "cat", "notes.md") == BOTH
        getattr(server.store, how)("notes.md", b"something else\n")
        assert merge(mounted, "notes.md") == (0, "", "")
        mounted.wait_until_settled()
        assert server.store.read("notes.md") == BOTH.encode()
        assert contents(server) == sorted([BOTH.encode(), b"something else\n"])


def slow_git(mounted: MountedJob, script: str) -> None:
    """Lets something happen while git merges: a shell script, before it does."""
    place = mounted.home / "bin"
    place.mkdir()
    (place / "git").write_text(f'#!/bin/sh\n{script}\nexec {shutil.which("git")} "$@"\n')
    (place / "git").chmod(0o755)
    mounted.variables["PATH"] = f"{place}:{os.environ['PATH']}"


@pytest.mark.parametrize("line", ["later", "line 5"])
def test_a_copy_that_the_job_has_written_since_its_read_is_kept(
    server: Server, mounted: MountedJob, line: str
) -> None:
    """vfs/semantics.md 4.57: FILE has what was read; the exit code is 1. The same bytes are another version, too."""
    copy = write_both(server, mounted, "python, in place")
    later = JOBS.replace("line 5", line)
    with taking_turns(mounted, lambda: server.store.write(copy, later)) as waiting:
        slow_git(mounted, waiting)
        report = f"jobfs: {mounted.path}/{copy} was merged, but has changed since it was read: it is kept\n"
        assert merge(mounted, "notes.md") == (1, "", report)
    assert visible(server) == {"notes.md": BOTH.encode(), copy: later.encode()}
    del mounted.variables["PATH"]
    eventually(lambda: line in (mounted.path / copy).read_text())
    assert merge(mounted, "notes.md") == (0, "", "")
    assert visible(server) == {"notes.md": BOTH.replace("line 5", line).encode()}


def test_a_copy_is_kept_if_its_changes_have_left_the_file_since(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.57: FILE has all of the copy when it is read, and another program writes it then."""
    copy = write_both(server, mounted, "python, in place")
    (mounted.path / "notes.md").write_text(BOTH)
    mounted.wait_until_settled()
    slow_git(mounted, f"echo other > {mounted.path}/notes.md")
    report = f"jobfs: {mounted.path}/notes.md has changed since it was read: run jobfs merge again\n"
    assert merge(mounted, "notes.md") == (1, "", report)
    mounted.wait_until_settled()
    assert visible(server) == {"notes.md": b"other\n", copy: JOBS.encode()}


def test_a_file_that_has_changed_since_its_read_is_left_alone(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.57: what another program has written there would be lost."""
    copy = write_both(server, mounted, "python, in place")
    slow_git(mounted, f"echo more >> {mounted.path}/notes.md")
    report = f"jobfs: {mounted.path}/notes.md has changed since it was read: run jobfs merge again\n"
    assert merge(mounted, "notes.md") == (1, "", report)
    mounted.wait_until_settled()
    assert visible(server) == {"notes.md": f"{MINE}more\n".encode(), copy: JOBS.encode()}
    assert sorted(os.listdir(mounted.path)) == [copy, "notes.md"]


@pytest.mark.parametrize("name", NAMES)
def test_a_merge_works_after_a_kill_and_with_any_name(server: Server, mounted: MountedJob, name: str) -> None:
    """vfs/semantics.md 4.61: the version that both began with survives a kill; names that need quoting."""
    copy = write_both(server, mounted, "python, in place", name)
    mounted.kill()
    mounted.mount()
    shutil.rmtree(mounted.cache, ignore_errors=True)
    assert merge(mounted, name) == (0, "", "")
    assert copy not in visible(server)
    assert server.store.read(name) == BOTH.encode()


def test_several_copies_are_merged_oldest_first_and_as_edited(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.57: an edit of a copy here is merged, too; 4.61: its base has the path of the copy."""
    first = write_both(server, mounted, "python, in place")
    more = BOTH.replace("line 5", "more of the job")
    with (mounted.path / "notes.md").open("r+") as file:
        text = file.read()
        server.store.write("notes.md", more)
        file.seek(0)
        file.write(text.replace("line 7", "more of mine"))
    mounted.wait_until_settled()
    assert len(mounted.status()["conflicts"]) == 2
    mounted.remount(write_back_delay=30)
    (mounted.path / first).write_text(JOBS.replace("line 11", "edited"))
    merged = (
        BOTH.replace("line 11", "edited")
        .replace("line 5", "more of the job")
        .replace("line 7", "more of mine")
    )
    assert merge(mounted, "notes.md") == (0, "", "")
    mounted.wait_until_settled()
    assert visible(server) == {"notes.md": merged.encode()}


def test_copies_are_listed_oldest_first(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.57: by the times in their names, and the numbers of those of one second."""
    times = ("20240501T120000Z", "20250501T120000Z", "20250501T120000Z-2", "20250501T120000Z-10")
    copies = [f"notes.conflict-{time}.md" for time in times]
    server.store.seed(dict.fromkeys(("notes.md", *copies), LINES), age=60)
    code, _, report = merge(mounted, "notes.md")
    assert (code, [copy for line in report.splitlines() for copy in copies if f"/{copy} " in line]) == (
        1,
        copies,
    )


def overlapping(server: Server, mounted: MountedJob, copy: str) -> str:
    server.store.write(copy, LINES.replace("line 2", "not mine"))
    return "both changed the same lines, in 1 place"


def binary(server: Server, mounted: MountedJob, copy: str) -> str:
    server.store.write(copy, b"a\0b")
    return "a version is binary"


def large(server: Server, mounted: MountedJob, copy: str) -> str:
    server.store.write(copy, b"a\n" * (8 << 20) + b"a")
    return "a version is larger than 16MiB"


def unknown(server: Server, mounted: MountedJob, copy: str) -> str:
    mounted.umount()
    for base in mounted.state.glob("*/*/bases/[0-9]*"):
        base.unlink()
    mounted.mount()
    return "the version that both started from is not on this machine"


@pytest.mark.parametrize("why", [overlapping, binary, large, unknown])
def test_a_failed_merge_names_the_reason_and_changes_nothing(
    server: Server, mounted: MountedJob, why: Callable[[Server, MountedJob, str], str]
) -> None:
    """vfs/semantics.md 4.58: exit code 1; `-n` has git's marks where lines overlap, the workspace never has."""
    copy = write_both(server, mounted, "python, in place")
    reason = why(server, mounted, copy)
    before = visible(server)
    eventually(lambda: (mounted.path / copy).stat().st_size == len(before[copy] or b""))
    report = f"jobfs: {mounted.path}/{copy} is not merged: {reason}\n"
    more = f": jobfs merge -n {mounted.path}/notes.md shows them\n"
    assert merge(mounted, "notes.md") == (1, "", report.replace("\n", more) if why is overlapping else report)
    code, out, err = merge(mounted, "notes.md", "-n")
    assert (code, err) == (1, report)
    marked = f"<<<<<<< {mounted.path}/notes.md\nmine\n=======\nnot mine\n>>>>>>> {mounted.path}/{copy}\n"
    assert out == (MINE.replace("mine\n", marked) if why is overlapping else MINE)
    mounted.wait_until_settled()
    assert visible(server) == before


def test_merging_a_copy_that_has_copies_is_refused(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.58: until those are merged."""
    copy = write_both(server, mounted, "python, in place")
    inner = write_inner(server, mounted, copy)
    before = visible(server)
    report = f"jobfs: {mounted.path}/{copy} has conflict copies itself: run jobfs merge {mounted.path}/{copy} first\n"
    assert merge(mounted, "notes.md") == (1, "", report)
    assert visible(server) == before
    assert merge(mounted, copy) == (0, "", "")
    assert merge(mounted, "notes.md") == (0, "", "")
    assert not {inner, copy} & visible(server).keys()
    assert (
        server.store.read("notes.md") == BOTH.replace("line 11", "here").replace("line 0", "there").encode()
    )


def write_inner(server: Server, mounted: MountedJob, copy: str) -> str:
    """A conflict over a conflict copy."""
    server.store.delete(copy)
    server.store.seed({copy: JOBS}, age=60)  # what is read just after it was written is not kept for later
    with (mounted.path / copy).open("r+") as file:
        text = file.read()
        server.store.write(copy, JOBS.replace("line 0", "there"))
        file.seek(0)
        file.write(text.replace("line 11", "here"))
        file.truncate()
    mounted.wait_until_settled()
    (inner,) = [name for name in visible(server) if name.count(".conflict-") == 2]
    return inner


def test_a_file_that_cannot_be_merged_at_all_is_exit_code_2(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.59: no file of a mount, readOnly, a read-only mount, no git; 4.57: without copies it is done."""
    copy = write_both(server, mounted, "python, in place")
    server.store.seed({"dir/alone": "x"}, age=60)
    eventually((mounted.path / "dir/alone").exists)
    place, file = mounted.path, mounted.path / "notes.md"
    before = visible(server)
    assert merge(mounted, "dir/alone") == (0, "", f"jobfs: {place}/dir/alone has no conflict copies\n")
    assert merge(mounted, "dir") == (2, "", f"jobfs: {place}/dir is a directory: give a file\n")
    assert merge(mounted, "never") == (
        2,
        "",
        f"jobfs: {place}/never is not a file in the job: give a file in the mount\n",
    )
    outside = mounted.jobfs("merge", tmp_path / "file")
    assert (outside.returncode, outside.stderr) == (2, f"jobfs: no job is mounted at {tmp_path}/file\n")
    mounted.variables["PATH"] = str(tmp_path)
    assert merge(mounted, "notes.md") == (2, "", "jobfs: merging needs git: install the package git\n")
    del mounted.variables["PATH"]
    for name in ("notes.md", copy):
        server.store.set_permission(name, "readOnly")
        eventually(lambda name=name: not (place / name).stat().st_mode & 0o222)  # type: ignore[misc]
        report = f"jobfs: {place}/{name} is readOnly in the job: run chmod u+w {place}/{name} first\n"
        assert merge(mounted, "notes.md") == (2, "", report)
        server.store.set_permission(name, "readWrite")
        eventually(lambda name=name: (place / name).stat().st_mode & 0o222)  # type: ignore[misc]
    mounted.remount(read_only=True)
    assert merge(mounted, "notes.md") == (
        2,
        "",
        f"jobfs: {file} is mounted read-only: mount the job without --read-only\n",
    )
    assert merge(mounted, "notes.md", "-n") == (0, BOTH, "")
    assert visible(server) == before


def test_a_second_mount_of_the_job_reports_that_it_has_no_base(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 4.58: the version that both began with is on the machine that has saved."""
    one, other = mount(), mount()
    copy = write_both(server, one, "python, in place")
    eventually((other.path / copy).exists)
    assert other.status()["conflicts"][0]["merge"] is None
    code, _, report = merge(other, "notes.md")
    assert (code, "is not on this machine" in report) == (1, True)
    assert merge(one, "notes.md") == (0, "", "")
    eventually(lambda: not (other.path / copy).exists())


def test_the_base_is_removed_when_the_job_deletes_the_copy(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.61: the base stays as long as the copy exists."""
    copy = write_both(server, mounted, "python, in place")
    assert len(list(mounted.state.glob("*/*/bases/[0-9]*"))) == 1
    server.store.delete(copy)
    eventually(lambda: os.listdir(mounted.path) and not list(mounted.state.glob("*/*/bases/[0-9]*")))


@pytest.mark.parametrize("program", ["vim", "sed", "python, in place", "VS Code"])
def test_the_base_is_available_with_timestamps_of_whole_seconds(tmp_path: Path, program: str) -> None:
    """vfs/semantics.md 4.61: the content cache has no bytes of a version that was saved in this second."""
    behaviour = Behaviour(updated_resolution="seconds", sizes="omitted")
    (tmp_path / "server").mkdir()
    with (
        running(EmulatorConfig(behaviour=behaviour), tmp_path / "server") as server,
        mounting(server, tmp_path / "home") as mounted,
    ):
        (mounted.path / "notes.md").write_text(LINES)
        mounted.wait_until_settled()
        write_both(server, mounted, program)
        assert merge(mounted, "notes.md") == (0, "", "")
        mounted.wait_until_settled()
        assert visible(server) == {"notes.md": BOTH.encode()}


def test_neither_workspace_nor_user_settings_configure_git(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.60: a repository, attributes and a git of the job, the user's own settings, `GIT_*` variables."""
    ran = tmp_path / "ran"
    config = (
        f"[merge]\n conflictStyle = diff3\n[core]\n fsmonitor = touch {ran}\n attributesFile = /dev/stdin\n"
    )
    server.store.seed(
        {".git/config": config, ".git/HEAD": "ref: refs/heads/x\n", ".gitattributes": "* -merge binary\n"},
        age=60,
    )
    (mounted.home / ".gitconfig").write_text(config)
    mounted.variables |= {"GIT_DIR": str(mounted.path / ".git"), "GIT_CONFIG_COUNT": "1",
                          "GIT_CONFIG_KEY_0": "merge.conflictStyle", "GIT_CONFIG_VALUE_0": "diff3"}  # fmt: skip
    copy = write_both(server, mounted, "python, in place")
    overlapping(server, mounted, copy)
    eventually(lambda: "not mine" in (mounted.path / copy).read_text())
    code, out, _ = merge(mounted, "notes.md", "-n")
    assert (code, "|||||||" in out, "<<<<<<<" in out) == (1, False, True)
    assert not ran.exists()
    assert list(mounted.state.glob("*/*/merge-*")) == []
