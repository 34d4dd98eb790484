"""Saves that did not get through: what the next mount does about them, and a person: recover, retry, discard."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from tests.support.files import errno_from, on_disk, save_file
from tests.support.mounts import Mount, MountedJob, environment, jobfs, run
from tests.support.serverside import hidden, untimed, visible
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually, eventually_equal

from jobfs.emulator import Server
from jobfs.names import Role, hidden_path, new_mount_id, new_transaction_id


def recover(mounted: MountedJob, *more: str) -> tuple[int, str, str]:
    done = mounted.jobfs(
        "recover", mounted.server.job, "--base-url", mounted.server.url, "--state-dir", mounted.state,
        "--cache-dir", mounted.cache, "--request-lifetime", "0.2", "--timeout", "5", *more,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def slot(mounted: MountedJob) -> Path:
    (journal,) = (mounted.state / mounted.server.job).glob("*/journal.db")
    return journal.parent


def save_refused(mounted: MountedJob, name: str, content: bytes) -> None:
    """A save that the server refuses for good."""
    mounted.server.faults.set_rate("error", 1.0, on="create", status=413, reason="Too large")
    assert errno_from(save_file, mounted.path / name, content)
    eventually(lambda: name in str(mounted.status()["failed"]))
    mounted.server.faults.clear()


def killed_mount(mount: Mount) -> MountedJob:
    """A mount that was killed before it had sent the file `made`."""
    mounted = mount(write_back_delay=30)
    (mounted.path / "made").write_bytes(b"made here")
    mounted.kill()
    return mounted


def test_recover_finishes_a_killed_mounts_changes_without_mounting(server: Server, mount: Mount) -> None:
    """save/protocol.md, Recovery: `jobfs recover JOB` does this; vfs/semantics.md 4.3: it names files that were never closed."""
    server.store.seed({"old.txt": "old", "half.txt": "old"}, age=60)
    mounted = mount(write_back_delay=30)
    (mounted.path / "old.txt").write_bytes(b"new content")
    (mounted.path / "made").write_bytes(b"made here")
    handle = os.open(mounted.path / "half.txt", os.O_WRONLY | os.O_TRUNC)
    os.write(handle, b"half of the new")
    mounted.kill()
    assert errno_from(os.close, handle)
    code, out, err = recover(mounted)
    assert code == 0, err
    assert sum("old.txt" in line for line in (out + err).splitlines()) == 1, "each is reported once"
    assert "half.txt was written and never closed: what was written is kept as half.recovered-" in out
    assert f"finished: everything left by the mount at {mounted.path}\n" in out
    assert untimed(visible(server)) == {
        "old.txt": b"new content", "made": b"made here", "half.txt": b"old",
        "half.recovered.txt": b"half of the new",
    }  # fmt: skip
    assert hidden(server) == []
    assert recover(mounted) == (0, f"nothing was left by the mount at {mounted.path}\n", "")


def test_recover_leaves_a_running_mount_alone(server: Server, mounted: MountedJob) -> None:
    code, _, err = recover(mounted)
    assert (code, str(mounted.path) in err) == (1, True), "0 says that the server has everything"
    save_file(mounted.path / "file", b"still served")
    assert server.store.read("file") == b"still served"


def test_recover_names_unsent_files_while_the_server_refuses(server: Server, mount: Mount) -> None:
    mounted = killed_mount(mount)
    server.faults.set_rate("error", 1.0, on="create", status=413, reason="Too large")
    code, _, err = recover(mounted)
    assert (code, "made" in err) == (1, True)
    assert "has left 1 unsent" in mounted.jobfs("status").stderr
    server.faults.clear()
    mounted.mount()
    assert (mounted.path / "made").read_bytes() == b"made here"


def test_hidden_items_of_a_lost_mount_get_visible_names(server: Server, mounted: MountedJob) -> None:
    """save/protocol.md R4 and save/protocol.md, Recovery, `--of MOUNT`: exposed, never deleted; only after asking."""
    mounted.kill()
    own = (slot(mounted) / "mount.json").read_text()
    server.store.seed({"dir/taken": "there"})
    lost = new_mount_id()
    for target, role, content in (
        ("dir/file", Role.ASIDE, "was at its name"),
        ("dir/taken", Role.ASIDE, "its name is taken"),
        ("dir/new.txt", Role.STAGED, "was being saved"),
    ):
        server.store.seed({hidden_path(target, lost, new_transaction_id(), role): content})
    code, out, _ = recover(mounted, "--of", lost)
    assert code != 0, "nobody has said yes"
    assert ("unfinished: dir/new.txt (15B)" in out, ".jobfs-" in out) == (True, False)
    assert len(hidden(server)) == 3
    code, out, err = recover(mounted, "--of", lost, "--yes")
    assert code == 0, err
    tree = visible(server)
    assert hidden(server) == []
    assert (tree["dir/file"], tree["dir/taken"]) == (b"was at its name", b"there")
    beside = {path.split(".")[1][:9]: content for path, content in tree.items() if "2" in path}
    assert beside == {"conflict-": b"its name is taken", "recovered": b"was being saved"}
    assert (slot(mounted) / "mount.json").read_text() == own, "that of another mount is left alone"


def test_recover_refuses_an_unknown_mount_or_one_with_local_state(mounted: MountedJob) -> None:
    mounted.umount()
    for mount_id, expected, words in (
        ("zz", 2, "not a mount id"), ("0" * 12, 0, "left nothing"), (slot(mounted).name, 2, "without --of"),
    ):  # fmt: skip
        code, out, err = recover(mounted, "--of", mount_id)
        assert (code, words in out + err) == (expected, True)


def test_a_read_only_mount_of_unsent_work_does_not_end_cleanly(mount: Mount) -> None:
    """vfs/semantics.md 4.12, 4.40: what was discarded is kept until a mount that sends the rest has ended."""
    mounted = mount(write_back_delay=30)
    save_refused(mounted, "big", b"refused for good")
    assert mounted.jobfs("discard", mounted.path / "big", "--yes").returncode == 0
    (mounted.path / "made").write_bytes(b"made here")
    mounted.kill()
    mounted.mount(read_only=True)
    mounted.umount()
    assert (slot(mounted) / "trash").exists()
    del mounted.options["read_only"]
    mounted.mount()
    mounted.umount()
    assert not (slot(mounted) / "trash").exists()


@pytest.mark.needs_program("tmux")
def test_a_refused_save_is_retried_or_discarded(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.12: after discard the server's version is shown; a copy is kept until the next clean unmount."""
    server.store.seed({"dir/old.txt": "on the server"}, age=60)
    refused = {"dir/old.txt": b"refused for good", "new.txt": b"never there", "big": b"at first"}
    for name, content in refused.items():
        save_refused(mounted, name, content)
    done = mounted.jobfs("retry", mounted.path / "big")
    assert (done.returncode, "big" in done.stdout) == (0, True)
    eventually(lambda: server.store.exists("big"))
    done = mounted.jobfs("discard", mounted.path / "dir", "--yes")
    assert done.returncode == 0, done.stderr
    (copy,) = (slot(mounted) / "trash").iterdir()
    assert str(copy) in done.stdout
    assert copy.read_bytes() == b"refused for good"
    eventually(lambda: (mounted.path / "dir/old.txt").read_bytes() == b"on the server")
    with on_terminal(mounted.home, "discard", mounted.path / "new.txt") as terminal:
        terminal.shows(re.compile(r"Give up the unsent changes to new.txt.*\? \[y/N\]:"))
        terminal.lines("y")
        assert terminal.wait_for_exit_code() == 0
    assert sorted(os.listdir(mounted.path)) == ["big", "dir"]
    assert mounted.jobfs("status", mounted.path).returncode == 0
    assert "no file there has failed" in mounted.jobfs("retry", mounted.path).stderr
    mounted.umount()
    assert not (slot(mounted) / "trash").exists()
    assert visible(server) == {"dir": None, "dir/old.txt": b"on the server", "big": b"at first"}


# `jobfs recover JOB --save TO`


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
    script = "echo run > 'it'\\''s a \"script\"'; chmod 750 it*; : > empty; touch -d @1000000000 empty"
    run(path, "sh", "-c", script)
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


STEPS, SIZE = 20, 1 << 18
#: A build whose shell has the log open; each program that the shell starts closes a descriptor of the log when it ends. Lists the
#: local bytes after the first step and after the last one, writes a line that nothing closes, and waits.
BUILD = f"""
exec >build.log
for step in $(seq {STEPS}); do
  head -c {SIZE} /dev/zero
  echo step $step
  [ $step != 2 ] || ls "$1" >"$2/first"
done
ls "$1" >"$2/last"
echo unclosed
read -r line
"""


def test_closed_lines_of_a_build_log_survive_a_kill(server: Server, mount: Mount, tmp_path: Path) -> None:
    """vfs/semantics.md 4.3, 4.49: they are written in place."""
    mounted = mount(write_back_delay=30)
    (local,) = mounted.state.rglob("bytes")
    closed = b"".join(bytes(SIZE) + b"step %d\n" % step for step in range(1, STEPS + 1))
    words = ["bash", "-e", "-c", BUILD, "build", str(local), str(tmp_path)]
    with subprocess.Popen(words, cwd=mounted.path, stdin=subprocess.PIPE):
        size = len(closed) + len(b"unclosed\n")
        eventually(lambda: sum(entry.stat().st_size for entry in os.scandir(local)) == size)
        first, last = ((tmp_path / name).read_text().split() for name in ("first", "last"))
        assert first == last, "no other generation was begun: nothing was copied"
        mounted.kill()
    mounted.mount()
    eventually_equal(
        lambda: sorted(content or b"" for content in visible(server).values()),
        [closed, closed + b"unclosed\n"],
    )
    assert visible(server)["build.log"] == closed
    assert (mounted.path / "build.log").read_bytes() == closed
    assert (
        "build.log was written and never closed: what was written is kept as build.recovered-" in mounted.log
    )
