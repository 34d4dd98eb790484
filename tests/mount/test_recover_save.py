"""`jobfs recover JOB --save TO` after a kill: the copies are what the next mount sends (vfs/semantics.md 6, Unsent files without
a server).
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from tests.support.files import errno_from, on_disk
from tests.support.mounts import Mount, MountedJob, environment, jobfs, run
from tests.support.serverside import untimed, visible

from jobfs.emulator import Server

#: A size for which no test has room: its file is a hole but for a few bytes.
HUGE = 4 << 30


def saved_to(mounted: MountedJob, to: Path) -> subprocess.CompletedProcess[str]:
    """Without a key and without a way to the server."""
    return jobfs(
        "recover", mounted.server.job, "--save", to, "--state-dir", mounted.state, "--base-url", "http://127.0.0.1:9",
        home=mounted.home, env=environment(mounted.home, None),
    )  # fmt: skip


def picture(top: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Everything below a directory, with its mode and time."""
    found = {}
    for path in (top, *top.rglob("*")):
        facts = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
        found[path] = (facts.st_mode, facts.st_mtime_ns, content)
    return found


def test_the_copies_equal_what_the_next_mount_sends(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6.19, 6.20."""
    server.store.seed({"old.txt": "old", "half.txt": "old", "untouched": "x"}, age=60)
    mounted = mount(write_back_delay=60)
    path, to = mounted.path, mounted.home / "to"
    (path / "old.txt").write_bytes(b"new content")
    (path / "scratch~").write_bytes(b"of this machine only")
    run(
        path,
        "sh",
        "-c",
        "echo run > 'it'\\''s a \"script\"'; chmod 750 it*; : > empty; touch -d @1000000000 empty",
    )
    (path / "moved").write_bytes(b"then renamed")
    (path / "moved").rename(path / "renamed")
    (path / "gone").write_bytes(b"then removed")
    (path / "gone").unlink()
    half = os.open(path / "half.txt", os.O_WRONLY | os.O_TRUNC)
    os.write(half, b"half of the new")
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, b"closed\n")
    os.close(os.dup(log))
    os.write(log, b"not closed")
    os.fstat(log)
    mounted.kill()
    for handle in (half, log):
        errno_from(os.close, handle)
    before = picture(mounted.state)
    done = saved_to(mounted, to)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert picture(mounted.state) == before, "nothing has changed there"
    assert f'copied: {chr(39)}it{chr(39)}"\'"\'s a "script"\' (4B)\n' in done.stdout
    assert re.search(r"copied: half\.recovered-\d+T\d+Z\.txt \(15B\): was never closed\n", done.stdout)
    facts = (to / 'it\'s a "script"').stat(), (to / "empty").stat()
    assert (stat.S_IMODE(facts[0].st_mode), facts[1].st_mtime, facts[1].st_size) == (0o750, 1e9, 0)
    copied = untimed(on_disk(to))
    assert copied == {
        "old.txt": b"new content", "it's a \"script\"": b"run\n", "empty": b"", "renamed": b"then renamed",
        "half.recovered.txt": b"half of the new", "log.txt": b"closed\n",
        "log.recovered.txt": b"closed\nnot closed",
    }  # fmt: skip
    again = saved_to(mounted, to)
    assert (again.returncode, again.stdout, again.stderr.count("exists\n")) == (1, "", len(copied))
    mounted.mount()
    mounted.wait_until_settled()
    assert untimed(visible(server)) == {"half.txt": b"old", "untouched": b"x", **copied}


def test_directories_and_files_of_an_outage_are_copied(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6.19: what was made while the server could not be reached, a very large file too."""
    mounted = mount(write_back_delay=60, timeout=2)
    assert os.listdir(mounted.path) == []
    server.faults.set_rate("drop", 1.0)
    run(mounted.path, "sh", "-c", "mkdir -p dir/sub alone; echo below > dir/sub/file; chmod 700 alone")
    with (mounted.path / "huge").open("wb") as file:
        file.write(b"begins")
        file.truncate(HUGE)
    mounted.kill()
    to = mounted.home / "to"
    done = saved_to(mounted, to)
    assert (done.returncode, done.stderr) == (0, "")
    huge = to / "huge"
    assert (huge.stat().st_size, huge.stat().st_blocks * 512 < 1 << 20) == (HUGE, True)
    with huge.open("rb") as file:
        assert file.read(8) == b"begins\0\0"
    huge.unlink()
    assert on_disk(to) == {"alone": None, "dir": None, "dir/sub": None, "dir/sub/file": b"below\n"}
    assert stat.S_IMODE((to / "alone").stat().st_mode) == 0o700
    server.faults.clear()


def test_a_running_mount_is_refused(mounted: MountedJob) -> None:
    """vfs/semantics.md 6.19."""
    done = saved_to(mounted, mounted.home / "to")
    said = f"jobfs: the mount at {mounted.path} is running, and sends its own files: they are not copied\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    assert not (mounted.home / "to").exists()


@pytest.mark.parametrize("damage", [b"", b"no database" * 1000])
def test_without_a_journal_the_bytes_have_numbers(mount: Mount, damage: bytes) -> None:
    """vfs/semantics.md 6.21."""
    mounted = mount(write_back_delay=60)
    (mounted.path / "notes").write_bytes(b"notes")
    mounted.kill()
    (journal,) = (mounted.state / mounted.server.job).glob("*/journal.db")
    journal.write_bytes(damage)
    journal.with_name("journal.db-wal").unlink(missing_ok=True)
    to = mounted.home / "to"
    done = saved_to(mounted, to)
    assert (done.returncode, "its files are copied under their numbers" in done.stderr) == (0, True)
    (name,) = (path for path, content in on_disk(to).items() if content == b"notes")
    assert re.fullmatch(rf"{journal.parent.name}/[0-9a-f]{{16}}\.\d+", name)
