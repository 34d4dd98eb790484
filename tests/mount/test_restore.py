"""`jobfs restore`: what was saved comes back, however a program saves, and whatever became of the file and the mount."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.mounts import Mount, MountedJob, run
from tests.support.serverside import doubled, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

_PYTHON = shlex.quote(sys.executable)
_SOURCE = Path(__file__).parents[2] / "src"
FIRST, SAVED, JOBS = "one\ntwo\n", "one\n2\n", "the job's\n"

#: How programs turn `FIRST` into `SAVED` in the file `$0`.
PROGRAMS = {
    "vim": "vim -u NONE -N -es -c '%s/two/2/' -c wq \"$0\"",
    "vim, which renames": 'vim -u NONE -N -es --cmd "set backupcopy=no" -c "%s/two/2/" -c wq "$0"',
    "sed": 'sed -i s/two/2/ "$0"',
    "shell": 'echo one > "$0"; echo 2 >> "$0"',
    "python, in place": f"""{_PYTHON} -c '
import sys
with open(sys.argv[1], "r+") as file:
    file.seek(4); file.write("2\\n"); file.truncate()' "$0" """,
    "python, new file": f"""{_PYTHON} -c '
import os, sys
os.unlink(sys.argv[1])
open(sys.argv[1], "x").write("one\\n2\\n")' "$0" """,
    "a file from elsewhere": 'printf "one\\n2\\n" > "$0.new"; sync "$0.new"; mv "$0.new" "$0"',
    "dd": 'printf "2\\n" | dd of="$0" bs=1 seek=4 status=none; truncate -s 6 "$0"',
}
#: Names that a shell, git or a terminal could take for something else.
NAMES = ("notes.md", "-n", "it's $(here)", "dir/ü \t.md")


def restored(mounted: MountedJob, name: str, *more: str) -> str:
    """What `jobfs restore` prints of a file."""
    done = mounted.jobfs("restore", *more, "--", mounted.path / name)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def is_gone(mounted: MountedJob, name: str) -> bool:
    """True if nothing is kept of a file, as the command says in one sentence."""
    done = mounted.jobfs("restore", "--", mounted.path / name)
    message = f"jobfs: no save of {mounted.path / name} is kept on this machine\n"
    return (done.returncode, done.stdout, done.stderr) == (2, "", message)


def save_and_overwrite(
    server: Server, mounted: MountedJob, name: str = "notes.md", text: str = SAVED
) -> None:
    """A file that was saved here, and that the job has overwritten since."""
    (mounted.path / name).write_text(text)
    mounted.wait_until_settled()
    server.store.write(name, JOBS)
    eventually(lambda: (mounted.path / name).stat().st_size == len(JOBS))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_save_that_the_job_overwrote_or_deleted_is_printed(
    server: Server, mounted: MountedJob, program: str
) -> None:
    """vfs/semantics.md 4.51: whatever the job has done to FILE since; nothing is changed."""
    server.store.seed({"notes.md": FIRST}, age=60)
    run(mounted.path, "bash", "-e", "-c", PROGRAMS[program], "notes.md", home=mounted.home)
    mounted.wait_until_settled()
    assert visible(server) == {"notes.md": SAVED.encode()}
    server.store.write("notes.md", JOBS)
    assert restored(mounted, "notes.md") == SAVED
    server.store.delete("notes.md")
    eventually(lambda: not (mounted.path / "notes.md").exists())
    assert restored(mounted, "notes.md") == SAVED
    assert visible(server) == {}


@pytest.mark.parametrize("name", NAMES)
def test_kept_saves_survive_a_kill_and_are_printed_without_a_mount(
    server: Server, mounted: MountedJob, name: str
) -> None:
    """vfs/semantics.md 4.53: after kill -9 too, with names that need quoting; files of mode 0600 in a directory of 0700."""
    server.store.seed({"dir/other": "x"}, age=60)
    save_and_overwrite(server, mounted, name)
    mounted.remount()
    assert restored(mounted, name) == SAVED
    mounted.kill()
    assert restored(mounted, name) == SAVED
    done = mounted.jobfs("restore", "--in-place", "--", mounted.path / name)
    assert (done.returncode, "mount the job" in done.stderr) == (2, True)
    mounted.mount()
    assert restored(mounted, name) == SAVED
    (saves,) = mounted.state.glob("*/*/saves")
    assert stat.S_IMODE(saves.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in saves.iterdir()} == {0o600}
    assert server.store.read(name) == JOBS.encode()


def test_restore_in_place_is_a_save_and_keeps_unread_versions(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.54: before a remount and after it; what a program near the caller has read is replaced."""
    for round in range(2):
        save_and_overwrite(server, mounted)
        if round:
            mounted.remount()
        assert restored(mounted, "notes.md", "--in-place") == ""
        mounted.wait_until_settled()
        (copy,) = [name for name in visible(server) if ".conflict-" in name]
        assert visible(server) == {"notes.md": SAVED.encode(), copy: JOBS.encode()}
        (mounted.path / copy).unlink()
    server.store.write("notes.md", JOBS)
    eventually(lambda: (mounted.path / "notes.md").stat().st_size == len(JOBS))
    script = (
        f"cat notes.md; PYTHONPATH={shlex.quote(str(_SOURCE))} {_PYTHON} -m jobfs restore --in-place notes.md"
    )
    assert run(mounted.path, "bash", "-e", "-c", script, home=mounted.home) == JOBS
    mounted.wait_until_settled()
    assert visible(server) == {"notes.md": SAVED.encode()}
    assert doubled(server) == []


def test_restore_in_place_keeps_the_mode_and_recreates_a_deleted_file(
    server: Server, mounted: MountedJob
) -> None:
    """vfs/semantics.md 4.54: an editor would do the same."""
    save_and_overwrite(server, mounted)
    (mounted.path / "notes.md").chmod(0o755)
    restored(mounted, "notes.md", "--in-place")
    assert stat.S_IMODE((mounted.path / "notes.md").stat().st_mode) == 0o755
    server.store.delete("notes.md")
    eventually(lambda: not (mounted.path / "notes.md").exists())
    restored(mounted, "notes.md", "--in-place")
    assert server.store.read("notes.md") == SAVED.encode()
    assert sorted(os.listdir(mounted.path))[-1] == "notes.md", "no scratch name is left"


@pytest.mark.parametrize("link", ["file", "directory"])
def test_restore_in_place_replaces_the_target_of_a_link(
    server: Server, mounted: MountedJob, link: str
) -> None:
    """vfs/semantics.md 4.54: the link stays."""
    server.store.seed({"dir/other": "x"}, age=60)
    save_and_overwrite(server, mounted, "dir/notes.md")
    at, file = mounted.home / "link", mounted.path / "dir/notes.md"
    at.symlink_to(file if link == "file" else file.parent)
    done = mounted.jobfs("restore", "--in-place", at if link == "file" else at / "notes.md")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert at.is_symlink()
    assert server.store.read("dir/notes.md") == SAVED.encode()


def test_restore_in_place_creates_no_file_below_a_detached_mount(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.54: the process is still there, as a program has a file open; what is kept is printed."""
    save_and_overwrite(server, mounted)
    with (mounted.path / "notes.md").open("rb"):
        mounted.jobfs("umount", "--lazy", "--timeout", "0.1", mounted.path)
        done = mounted.jobfs("restore", "--in-place", mounted.path / "notes.md")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{mounted.path} is unmounted" in done.stderr
        assert os.listdir(mounted.path) == []
        assert restored(mounted, "notes.md") == SAVED
    mounted.wait_for_end()
    assert server.store.read("notes.md") == JOBS.encode()


def test_a_file_that_the_shell_has_emptied_is_refused_and_still_kept(
    server: Server, mounted: MountedJob
) -> None:
    """vfs/semantics.md 4.55: `jobfs restore f > f`; an empty save does not replace the kept save."""
    save_and_overwrite(server, mounted)
    file = mounted.path / "notes.md"
    command = [sys.executable, "-m", "jobfs", "restore", str(file)]
    with file.open("wb") as out:
        done = subprocess.run(
            command, env=mounted.environment(), stdout=out, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert (
        done.stderr
        == f"jobfs: the output is {file} itself, which the shell has emptied: run jobfs restore --in-place {file}\n"
    )
    mounted.wait_until_settled()
    assert server.store.read("notes.md") == b""
    restored(mounted, "notes.md", "--in-place")
    assert server.store.read("notes.md") == SAVED.encode()


def removed(mounted: MountedJob) -> None:
    (mounted.path / "notes.md").unlink()


def forgotten(mounted: MountedJob) -> None:
    assert restored(mounted, "notes.md", "--forget") == ""
    assert mounted.jobfs("restore", "--forget", mounted.path / "notes.md").returncode == 2


def forgotten_unmounted(mounted: MountedJob) -> None:
    mounted.umount()
    forgotten(mounted)
    mounted.mount()


def renamed_over(mounted: MountedJob) -> None:
    (mounted.path / "other").rename(mounted.path / "notes.md")


def turned_off(mounted: MountedJob) -> None:
    mounted.remount(keep_saves=0)
    assert list(mounted.state.glob("*/*/saves/[0-9]*")) == []
    (mounted.path / "notes.md").write_text("more\n")
    mounted.wait_until_settled()


@pytest.mark.parametrize("drop", [removed, forgotten, forgotten_unmounted, renamed_over, turned_off])
def test_a_kept_save_is_dropped_with_its_file_or_on_request(
    server: Server, mounted: MountedJob, drop: Callable[[MountedJob], None]
) -> None:
    """vfs/semantics.md 4.52, 4.53: rm in this mount, --forget, a rename of an item over it, --keep-saves 0."""
    server.store.seed({"other": "of the job"}, age=60)
    save_and_overwrite(server, mounted)
    drop(mounted)
    assert is_gone(mounted, "notes.md")
    mounted.kill()
    assert is_gone(mounted, "notes.md")


def test_a_kept_save_follows_the_rename_of_its_file_or_directory(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.53: in this mount, after a remount too."""
    server.store.seed({"dir/other": "x"}, age=60)
    save_and_overwrite(server, mounted, "dir/notes.md")
    (mounted.path / "dir/notes.md").rename(mounted.path / "dir/mine.md")
    (mounted.path / "dir").rename(mounted.path / "to")
    assert is_gone(mounted, "dir/mine.md")
    assert is_gone(mounted, "to/notes.md")
    mounted.remount()
    assert restored(mounted, "to/mine.md") == SAVED


def test_each_mount_keeps_its_own_saves_and_a_read_only_mount_none(
    server: Server, mount: Mount, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.53: the save of another mount is, to this one, what the job does; 4.40: nothing is written."""
    one, other = mount(), mount()
    save_and_overwrite(server, one)
    assert is_gone(other, "notes.md")
    (other.path / "notes.md").write_text("of the other\n")
    other.wait_until_settled()
    assert restored(one, "notes.md") == SAVED
    assert restored(other, "notes.md") == "of the other\n"
    one.remount(read_only=True)
    assert restored(one, "notes.md") == SAVED
    done = one.jobfs("restore", "--in-place", one.path / "notes.md")
    assert (done.returncode, done.stderr) == (
        2,
        f"jobfs: {one.path / 'notes.md'} is mounted read-only: mount the job without --read-only\n",
    )
    assert server.store.read("notes.md") == b"of the other\n"


def test_bad_input_is_reported_in_one_sentence(server: Server, mounted: MountedJob, tmp_path: Path) -> None:
    """vfs/semantics.md 4.51: a directory, a path outside of a mount, a file that never was, a readOnly one: exit code 2."""
    (mounted.path / "dir").mkdir()
    save_and_overwrite(server, mounted)
    server.store.set_permission("notes.md", "readOnly")
    eventually(lambda: not (mounted.path / "notes.md").stat().st_mode & 0o222)
    cases = {
        ("dir",): f"{mounted.path}/dir is a directory: give a file",
        (".",): f"{mounted.path} is a directory: give a file",
        ("never",): f"no save of {mounted.path}/never is kept on this machine",
        ("--in-place", "notes.md"): f"{mounted.path}/notes.md is readOnly in the job: "
        f"run chmod u+w {mounted.path}/notes.md first",
        ("--in-place", "--forget", "never"): "--in-place and --forget exclude each other",
    }  # fmt: skip
    for (*options, name), message in cases.items():
        done = mounted.jobfs("restore", *options, mounted.path / name)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"jobfs: {message}\n")
    outside = mounted.jobfs("restore", tmp_path / "file")
    assert (outside.returncode, outside.stderr) == (2, f"jobfs: no job is mounted at {tmp_path}/file\n")
    assert sorted(os.listdir(mounted.path)) == ["dir", "notes.md"], "no scratch name is left"
