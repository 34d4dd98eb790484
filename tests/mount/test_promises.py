"""What jobfs promises on a real mount: reading changes nothing, the key is secret, what it prints can be pasted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.support.files import errno_from, save_file
from tests.support.mounts import Mount, MountedJob, run

from jobfs.emulator import Server


@pytest.mark.needs_program("tar")
def test_reading_makes_no_changing_request(server: Server, mounted: MountedJob) -> None:
    server.store.seed({f"d{n % 3}/f{n}.txt": f"text {n}" for n in range(30)})
    server.store.seed({"d0/default.txt": "default"}, lifecycle="application")
    root = mounted.path
    run(root, "grep", "-r", "text", ".")
    run(root, "ls", "-lR")
    run(root, "find", ".", "-newer", "d0", "-empty")
    run(root, "sh", "-c", "tar -cf - . | wc -c; df . ; test -w d0/f0.txt; stat d0 d0/f0.txt; test -e no || :")
    with (root / "d0/f0.txt").open("r+b") as opened_for_writing_but_not_written:
        assert opened_for_writing_but_not_written.read() == b"text 0"
        os.fsync(opened_for_writing_but_not_written.fileno())
    mounted.status()
    assert mounted.jobfs("info", root / "d0/f0.txt").returncode == 0
    mounted.umount()
    assert [(e.operation, e.target) for e in server.log.changes()] == []
    assert server.log.count("download") >= 30


@pytest.mark.needs_program("ps")
def test_the_key_is_found_in_no_file_or_output(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6.9: the key is never in /proc/mounts, a log, an error message or the cache."""
    mounted = mount(log_level="debug", cache_size="64MiB")
    said: list[str] = []
    server.store.seed({"note.txt": "text", "dir/a.txt": "a"})
    run(mounted.path, "grep", "-r", "text", ".")
    save_file(mounted.path / "note.txt", b"new text")
    server.faults.fail_next("error", on="create", status=401, reason="Failed to authenticate")
    assert errno_from(save_file, mounted.path / "other.txt", b"other") != 0
    said.append(str(mounted.status()["failed"]))
    os.unlink(mounted.path / "other.txt")
    server.faults.fail_next("drop", on="find", times=2)
    run(mounted.path, "ls", "-lR")
    for arguments in (("status", ""), ("status", "", "--json"), ("flush", ""), ("info", "note.txt")):
        done = mounted.jobfs(arguments[0], mounted.path / arguments[1], *arguments[2:])
        said += [done.stdout, done.stderr]
    said.append(Path("/proc/mounts").read_text())
    said.append(run(mounted.path, "ps", "-eww", "-o", "args"))
    assert server.key not in "".join(said)
    assert server.key not in mounted.log
    assert mounted.log, "at the level debug it says something"
    for when in ("mounted", "unmounted"):
        for file in (f for f in mounted.home.rglob("*") if mounted.path not in f.parents and f.is_file()):
            assert server.key.encode() not in file.read_bytes(), f"in {file} while {when}"
        if when == "mounted":
            mounted.umount()


@pytest.mark.needs_program("zsh", "fish")
def test_the_printed_command_of_a_conflict_executes_no_part_of_a_name(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 6.16: as it is printed for a person, on one line, in three shells."""
    named = ["-", "$(touch RAN)", "'; touch RAN; '", "\\'\";touch RAN;#", "new\nline", "\x1b[2J"]
    for name in named:
        server.store.seed({f"{name}/n.md": "one\n", f"{name}/n.conflict-20260101T000000Z.md": "two\n"})
    out = mounted.jobfs("status", mounted.path).stdout
    commands = [line.strip() for line in out.splitlines() if line.startswith("    diff -u ")]
    assert len(commands) == len(named), out
    for shell in ("bash", "zsh", "fish"):
        for command in commands:
            words = [shell, "-c", command]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=20)
            unknown = shell == "fish" and "$'" in command
            assert unknown or done.stdout.endswith("-one\n+two\n"), (shell, command, done.stderr)
    assert not list(tmp_path.glob("RAN"))
