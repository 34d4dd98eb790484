"""What a person does about saves that did not get through: recover, retry, discard; and a journal that is damaged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.files import errno_from, save_file
from tests.support.mounts import Mount, MountedJob, environment
from tests.support.serverside import hidden, untimed, visible
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually

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


def test_a_read_only_mount_reports_unsent_files_and_leaves_them(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 4.40: it makes no changing request, ever; the next mount sends what was closed."""
    mounted = killed_mount(mount)
    mounted.mount(read_only=True)
    assert "unsent work of an earlier mount (1) is neither finished" in mounted.log
    mounted.umount()
    assert not json.loads((slot(mounted) / "mount.json").read_text())["clean"]
    code, _, err = recover(mounted, "-o", "ro")
    assert (code, "can't be read-only" in err, server.log.changes()) == (2, True, [])
    del mounted.options["read_only"]
    mounted.mount()
    assert "taken up: made: was not sent yet" in mounted.log
    mounted.wait_until_settled()
    assert visible(server) == {"made": b"made here"}


def test_recover_leaves_a_running_mount_alone(server: Server, mounted: MountedJob) -> None:
    code, _, err = recover(mounted)
    assert (code, str(mounted.path) in err) == (1, True), "0 says that the server has everything"
    save_file(mounted.path / "file", b"still served")
    assert server.store.read("file") == b"still served"


def test_recover_names_unsent_files_while_the_server_refuses(server: Server, mount: Mount) -> None:
    mounted = mount(write_back_delay=30)
    (mounted.path / "big").write_bytes(b"too large")
    mounted.kill()
    server.faults.set_rate("error", 1.0, on="create", status=413, reason="Too large")
    code, _, err = recover(mounted)
    assert code == 1
    assert "big" in err
    server.faults.clear()
    mounted.mount()
    assert (mounted.path / "big").read_bytes() == b"too large"


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


def test_retry_sends_a_refused_save(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.12: `jobfs retry` and `jobfs discard` resolve it."""
    save_refused(mounted, "big.bin", b"refused at first")
    done = mounted.jobfs("retry", mounted.path / "big.bin")
    assert (done.returncode, "big.bin" in done.stdout) == (0, True)
    mounted.wait_until_settled()
    assert visible(server) == {"big.bin": b"refused at first"}
    assert mounted.jobfs("status", mounted.path).returncode == 0
    assert "no file there has failed" in mounted.jobfs("retry", mounted.path).stderr


def test_discard_drops_a_refused_save(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.12: after discard the server's version is shown; a copy is kept until the next clean unmount."""
    server.store.seed({"dir/old.txt": "on the server"}, age=60)
    save_refused(mounted, "dir/old.txt", b"refused for good")
    save_refused(mounted, "new.txt", b"never there")
    asked = mounted.jobfs("discard", mounted.path / "new.txt")
    assert (asked.returncode, "give --yes" in asked.stderr) == (2, True), "nobody has said yes"
    assert (mounted.path / "new.txt").read_bytes() == b"never there"
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
    assert os.listdir(mounted.path) == ["dir"]
    assert mounted.jobfs("status", mounted.path).returncode == 0
    mounted.umount()
    assert not (slot(mounted) / "trash").exists()
    assert visible(server) == {"dir": None, "dir/old.txt": b"on the server"}
    mounted.mount()
    done = mounted.jobfs("discard", mounted.path / "dir/old.txt", "--yes")
    assert (done.returncode, "nothing is unsent" in done.stderr) == (2, True)


def test_a_damaged_journal_is_refused_and_its_bytes_are_kept(server: Server, mount: Mount) -> None:
    """save/protocol.md, Recovery: it never starts as if nothing had been there."""
    mounted = killed_mount(mount)
    place = slot(mounted)
    journal, damaged = place / "journal.db", os.urandom(8192)
    journal.write_bytes(damaged)
    (place / "journal.db-wal").unlink(missing_ok=True)
    done = mounted.jobfs(*mounted.command()[3:])
    assert done.returncode == 2
    assert f"the journal {journal} can't be used: " in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.read_bytes() for path in (place / "bytes").iterdir()] == [b"made here"]
    assert journal.read_bytes() == damaged
    place.rename(place.with_name("moved away"))
    mounted.mount()
    save_file(mounted.path / "goes on", b"x")


def test_the_command_that_status_prints_sends_the_unsent_files(
    server: Server, mount: Mount, tmp_path: Path
) -> None:
    """vfs/semantics.md 6.18: of a mount with an address, a state directory and a key file of its own."""
    key = tmp_path / "my key"
    key.write_text(server.key)
    key.chmod(0o600)
    mounted = mount(start=False, state_dir=tmp_path / "my state", api_key_file=key, write_back_delay=30)
    mounted.key = None
    mounted.mount()
    (mounted.path / "made").write_bytes(b"made here")
    mounted.kill()
    output = mounted.jobfs("status", "--state-dir", tmp_path / "my state").stderr
    hint = re.search(r"jobfs recover .*", output)
    assert hint is not None
    shell = f'jobfs() {{ "{sys.executable}" -m jobfs "$@"; }}; {hint[0]}'
    env = environment(mounted.home, None) | {"JOBFS_REQUEST_LIFETIME": "0.2"}
    done = subprocess.run(["sh", "-c", shell], env=env, capture_output=True, text=True, timeout=40)
    assert (done.returncode, done.stderr) == (0, "")
    assert visible(server) == {"made": b"made here"}
