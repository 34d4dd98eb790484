"""`jobfs restore`: what was saved comes back, however a program saves, and whatever became of the file and the mount."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.mounts import Mount, MountedJob, run
from tests.support.programs import needs_all, program
from tests.support.serverside import doubled, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

FIRST, SAVED, JOBS = "one\ntwo\n", "one\n2\n", "the job's\n"
#: Programs that save in different ways: over the file, by a rename, with backups, at its end.
EDITORS = (
    "python", "python, by a rename", "sed -i", "vim", "vim, backup by a rename", "r+, seek to the end", ">>", "truncate -s +",
)  # fmt: skip


def restored(mounted: MountedJob, name: str, *more: str) -> str:
    """Return what `jobfs restore` prints of a file."""
    done = mounted.jobfs("restore", *more, "--", mounted.path / name)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refusal(mounted: MountedJob, name: str | Path, *options: str) -> str:
    """Return the one sentence with which `jobfs restore` refuses."""
    done = mounted.jobfs("restore", *options, "--", mounted.path / name)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    return done.stderr.removeprefix("jobfs: ").rstrip()


def is_gone(mounted: MountedJob, name: str) -> bool:
    """Return whether nothing is kept of a file, as the command says."""
    return refusal(mounted, name) == f"no save of {mounted.path / name} is kept on this machine"


def save_and_overwrite(server: Server, mounted: MountedJob, name: str = "notes.md") -> None:
    """Save a file here, and let the job overwrite it."""
    (mounted.path / name).write_text(SAVED)
    mounted.wait_until_settled()
    server.store.write(name, JOBS)
    eventually(lambda: (mounted.path / name).stat().st_size == len(JOBS))


@needs_all(map(program, EDITORS))
def test_a_save_overwritten_by_the_job_is_printed(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.51: however it was saved, and whatever the job has done to FILE since; nothing is changed."""
    files = {f"{number}.md": program(name) for number, name in enumerate(EDITORS)}
    server.store.seed(dict.fromkeys(files, FIRST), age=60)
    for name, editor in files.items():
        run(mounted.path, *editor.command(mounted.path / name, "mine", scratch=tmp_path / name))
    mounted.wait_until_settled()
    saved = {name: server.store.read(name).decode() for name in files}
    assert [sorted(text.splitlines()) for text in saved.values()] == [["mine", "one", "two"]] * len(files)
    for name, editor in files.items():
        server.store.write(name, JOBS)
        assert restored(mounted, name) == saved[name], editor.name
        server.store.delete(name)
    eventually(lambda: not (mounted.path / "0.md").exists())
    assert restored(mounted, "0.md") == saved["0.md"]
    assert visible(server) == {}


def test_kept_saves_survive_a_kill_and_need_no_mount(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.53: after kill -9 too, with names that need quoting; files of mode 0600 in a directory of 0700."""
    names = ("notes.md", "-n", "it's $(here)", "dir/ü \t.md")
    server.store.seed({"dir/other": "x"}, age=60)
    for name in names:
        save_and_overwrite(server, mounted, name)
    mounted.remount()
    mounted.kill()
    for name in names:
        assert restored(mounted, name) == SAVED
    assert "mount the job" in refusal(mounted, "notes.md", "--in-place")
    mounted.mount()
    for name in names:
        assert restored(mounted, name) == SAVED
        assert server.store.read(name) == JOBS.encode()
    (saves,) = mounted.state.glob("*/*/saves")
    assert stat.S_IMODE(saves.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in saves.iterdir()} == {0o600}


def test_restore_in_place_is_a_save_and_keeps_unread_versions(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.54: after a remount, too; what a program near the caller has read is replaced."""
    save_and_overwrite(server, mounted)
    mounted.remount()
    assert restored(mounted, "notes.md", "--in-place") == ""
    mounted.wait_until_settled()
    (copy,) = [name for name in visible(server) if ".conflict-" in name]
    assert visible(server) == {"notes.md": SAVED.encode(), copy: JOBS.encode()}
    (mounted.path / copy).unlink()
    server.store.write("notes.md", JOBS)
    eventually(lambda: (mounted.path / "notes.md").stat().st_size == len(JOBS))
    python, source = shlex.quote(sys.executable), shlex.quote(mounted.environment()["PYTHONPATH"])
    script = f"cat notes.md; PYTHONPATH={source} {python} -m jobfs restore --in-place notes.md"
    assert run(mounted.path, "bash", "-e", "-c", script, home=mounted.home) == JOBS
    mounted.wait_until_settled({"notes.md": SAVED.encode()})
    assert doubled(server) == []


@pytest.mark.parametrize("link", ["file", "directory"])
def test_restore_in_place_replaces_a_links_target(server: Server, mounted: MountedJob, link: str) -> None:
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
        assert f"{mounted.path} is unmounted" in refusal(mounted, "notes.md", "--in-place")
        assert os.listdir(mounted.path) == []
        assert restored(mounted, "notes.md") == SAVED
    mounted.wait_for_end()
    assert server.store.read("notes.md") == JOBS.encode()


def test_a_file_emptied_by_the_shell_is_refused_and_kept(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.55: `jobfs restore f > f`; an empty save does not replace the kept save."""
    save_and_overwrite(server, mounted)
    file = mounted.path / "notes.md"
    command = [sys.executable, "-m", "jobfs", "restore", str(file)]
    with file.open("wb") as out:
        done = subprocess.run(command, env=mounted.environment(), stdout=out, stderr=subprocess.PIPE)
    said = f"the output is {file} itself, which the shell has emptied: run jobfs restore --in-place {file}\n"
    assert (done.returncode, done.stderr.decode()) == (2, f"jobfs: {said}")
    mounted.wait_until_settled()
    assert server.store.read("notes.md") == b""
    restored(mounted, "notes.md", "--in-place")
    assert server.store.read("notes.md") == SAVED.encode()


def test_a_kept_save_is_dropped_on_request(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.52, 4.53: by --forget, with a mount or without, and by --keep-saves 0."""
    for name in ("forgotten", "later", "never"):
        save_and_overwrite(server, mounted, name)
    assert restored(mounted, "forgotten", "--forget") == ""
    assert refusal(mounted, "forgotten", "--forget")
    mounted.umount()
    assert restored(mounted, "later", "--forget") == ""
    assert is_gone(mounted, "forgotten")
    assert is_gone(mounted, "later")
    assert restored(mounted, "never") == SAVED
    mounted.mount(keep_saves=0)
    assert list(mounted.state.glob("*/*/saves/[0-9]*")) == []
    assert is_gone(mounted, "never")


def test_each_mount_keeps_its_own_saves_and_a_read_only_mount_none(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 4.53: the save of another mount is, to this one, what the job does; 4.40: nothing is written."""
    one, other = mount(), mount()
    save_and_overwrite(server, one)
    assert is_gone(other, "notes.md")
    (other.path / "notes.md").write_text("of the other\n")
    other.wait_until_settled()
    one.remount(read_only=True)
    assert restored(one, "notes.md") == SAVED
    refused = f"{one.path}/notes.md is mounted read-only: mount the job without --read-only"
    assert refusal(one, "notes.md", "--in-place") == refused
    assert server.store.read("notes.md") == b"of the other\n"


def test_bad_input_is_reported_in_one_sentence(server: Server, mounted: MountedJob, tmp_path: Path) -> None:
    """vfs/semantics.md 4.51: a directory, a path outside of a mount, a file that never was, a readOnly one: exit code 2."""
    save_and_overwrite(server, mounted)
    place = mounted.path
    server.store.set_permission("notes.md", "readOnly")
    eventually(lambda: not (place / "notes.md").stat().st_mode & 0o222)
    assert refusal(mounted, ".") == f"{place} is a directory: give a file"
    assert is_gone(mounted, "never")
    read_only = f"{place}/notes.md is readOnly in the job: run chmod u+w {place}/notes.md first"
    assert refusal(mounted, "notes.md", "--in-place") == read_only
    assert refusal(mounted, "x", "--in-place", "--forget") == "--in-place and --forget exclude each other"
    assert refusal(mounted, tmp_path / "file") == f"no job is mounted at {tmp_path}/file"
    assert os.listdir(place) == ["notes.md"], "no scratch name is left"
