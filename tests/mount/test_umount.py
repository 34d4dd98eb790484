"""Unmounting is truthful: closed files are sent before any command says so, however the mount ends (vfs/semantics.md 6)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.holders import Holder, holding, python
from tests.support.mounts import Mount, MountedJob, detach, environment, is_mounted
from tests.support.serverside import visible
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually

from jobfs.emulator import Server


def line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def wait_for_exit(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code, and what was said since the last `line`."""
    _, said = process.communicate(timeout=40)
    return process.returncode, said


def end(mounted: MountedJob) -> None:
    os.kill(mounted.pid, signal.SIGTERM)


def code_of(mounted: MountedJob, timeout: float = 30) -> int:
    assert mounted.process is not None
    return mounted.process.wait(timeout)


@contextmanager
def detached(mounted: MountedJob) -> Iterator[tuple[Holder, subprocess.Popen[str]]]:
    """A program has a file open, and `jobfs umount --lazy` has named it and has detached the mount."""
    with (
        holding(mounted.path / "notes.md") as program,
        mounted.running("umount", "--lazy", mounted.path) as umount,
    ):
        said = line(umount)
        assert ("is detached" in said, f"({program.pid}: notes.md)" in said) == (True, True), said
        yield program, umount


def sent_by_the_next(server: Server, mounted: MountedJob, expected: dict[str, bytes]) -> None:
    """A server that works again gets all from the next mount."""
    server.faults.clear()
    mounted.kill()
    mounted.mount()
    mounted.wait_until_settled(expected)


#: Tests with another file system at the mount's directory.
ANOTHER = pytest.mark.needs_root("only root can mount another file system there")


@contextmanager
def another_on(directory: Path) -> Iterator[None]:
    """Another file system, mounted at the same directory."""
    subprocess.run(["mount", "-t", "tmpfs", "another", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


# umount beside open files


def test_umount_names_an_open_file_and_leaves_the_mount_running(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 6.14: `umount` names the programs and files, and refuses with exit code 1."""

    def refused(user: str) -> None:
        done = mounted.jobfs("umount", mounted.path)
        assert (done.returncode, user in done.stderr, "--lazy" in done.stderr) == (1, True, True), done.stderr
        assert is_mounted(mounted.path)

    with holding(mounted.path / "notes.md") as program:
        assert program.does("os.write(file, b'one')") == "ok"
        refused(f"python ({program.pid}: notes.md)")
        # The kernel keeps 15 bytes, which end within a character.
        name = "\u0447\u0438\u0442\u0430\u0442\u0435\u043b\u044c"
        assert program.does(f"open('/proc/self/comm', 'w').write({name!r})") == "ok"
        refused(f"({program.pid}: notes.md)")
        assert program.does("os.write(file, b'two'); os.close(file)") == "ok"
    mounted.umount()
    assert visible(server) == {"notes.md": b"onetwo"}


def test_a_mount_below_a_renamed_directory_is_unmounted(server: Server, mount: Mount, tmp_path: Path) -> None:
    """vfs/semantics.md 6: a directory above it may be renamed while it is mounted."""
    mounted = mount(start=False)
    mounted.path = tmp_path / "above/mnt"
    mounted.path.mkdir(parents=True)
    mounted.mount()
    (mounted.path / "notes.md").write_bytes(b"notes")
    (tmp_path / "above").rename(tmp_path / "later")
    done = mounted.jobfs("umount", tmp_path / "later/mnt")
    detach(tmp_path / "later/mnt")
    assert (done.returncode, done.stderr) == (0, "")
    mounted.wait_for_end()
    assert visible(server) == {"notes.md": b"notes"}


@ANOTHER
def test_umount_refuses_below_a_mount_but_not_for_a_hidden_program(server: Server, mount: Mount) -> None:
    mounted = mount(start=False)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=mounted.path):
        mounted.mount()
        with another_on(mounted.path):
            refused = mounted.jobfs("umount", mounted.path)
            assert (refused.returncode, f"{mounted.path} is in use" in refused.stderr) == (1, True)
        mounted.umount()


@ANOTHER
def test_the_time_limit_of_a_refused_umount_does_not_bind_a_later_one(
    server: Server, mounted: MountedJob
) -> None:
    """vfs/semantics.md 6.4."""
    (mounted.path / "dir").mkdir()
    with another_on(mounted.path / "dir"):
        refused = mounted.jobfs("umount", mounted.path, "--timeout", "0.1")
        assert (refused.returncode, f"{mounted.path} is in use" in refused.stderr) == (1, True)
    (mounted.path / "notes.md").write_bytes(b"notes")
    subprocess.run(["umount", "-i", mounted.path], check=True)
    mounted.wait_for_end()
    assert server.store.read("notes.md") == b"notes"


def test_a_signal_that_was_ignored_at_the_start_does_not_end_the_mount(mounted: MountedJob) -> None:
    """As under nohup."""
    mounted.umount()
    command = ["nohup", *mounted.command()]
    with subprocess.Popen(command, env=mounted.environment(), stdout=subprocess.PIPE) as mount:
        assert mount.stdout is not None
        mount.stdout.readline()
        mount.send_signal(signal.SIGHUP)
        assert (os.listdir(mounted.path), is_mounted(mounted.path)) == ([], True)
        assert mounted.jobfs("umount", mounted.path).returncode == 0


def test_umount_from_within_names_the_shell_as_the_obstacle(server: Server, mounted: MountedJob) -> None:
    """Only the shell: this command's own directory keeps nobody from unmounting."""
    script = f'cd {mounted.path} && "$1" -m jobfs umount . ; echo $?'
    words = ["sh", "-c", script, "sh", sys.executable]
    env = environment(mounted.home, mounted.key)
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=40)
    assert (done.stdout, done.stderr.count("(")) == ("1\n", 1)
    assert re.search(r"by sh \(\d+: current directory\): close", done.stderr)
    assert is_mounted(mounted.path)


@pytest.mark.needs_program("tmux")
def test_umount_all_lists_the_mounts_and_asks_on_a_terminal(mount: Mount) -> None:
    """vfs/semantics.md 6: a mount that was not meant is not unmounted; one that is in use keeps no other."""
    one = mount()
    two = mount(start=False, state_dir=one.state)
    two.home = one.home
    two.mount()
    named = [f"to be unmounted: {one.server.job} at {each.path}" for each in (one, two)]
    with on_terminal(one.home, "umount", "--all") as terminal:
        terminal.shows("Unmount these 2? [y/N]:")
        terminal.lines("n")
        assert terminal.wait_for_exit_code() == 1
    assert (is_mounted(one.path), is_mounted(two.path)) == (True, True)
    with holding(two.path / "open"):
        done = one.jobfs("umount", "--all")
        assert (done.returncode, done.stdout.splitlines()) == (1, named)
        assert (f"{two.path} is in use by" in done.stderr, is_mounted(one.path)) == (True, False)
    with on_terminal(one.home, "umount", "--all") as terminal:
        assert (terminal.wait_for_exit_code(), terminal.screen().splitlines()[:1]) == (0, named[1:])
    two.wait_for_end()


def test_umount_lazy_returns_after_the_last_file_is_sent(server: Server, mounted: MountedJob) -> None:
    with detached(mounted) as (program, umount):
        assert not is_mounted(mounted.path)
        assert program.does("os.write(file, b'after')") == "ok"
        assert program.does("os.fsync(file)") == "ok"
        assert visible(server) == {"notes.md": b"after"}
        assert program.does("os.write(file, b' the detaching')") == "ok"
        assert umount.poll() is None
        with mounted.running("umount", "--lazy", mounted.path) as second:
            assert "is detached" in line(second)
            assert program.does("os.close(file)") == "ok"
            assert (wait_for_exit(umount), wait_for_exit(second)) == ((0, ""), (0, ""))
        assert visible(server) == {"notes.md": b"after the detaching"}
    mounted.wait_for_end()


def test_umount_lazy_with_a_timeout_names_files_still_open(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 6: never says "all sent" before."""
    with holding(mounted.path / "notes.md") as program:
        assert program.does("os.write(file, b'one')") == "ok"
        done = mounted.jobfs("umount", "--lazy", "--timeout", "0.5", mounted.path)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        for words in (f"process {mounted.pid}", f"({program.pid}: notes.md)", "1 unsent: "):
            assert words in last
        again = mounted.jobfs("mount", server.job, mounted.path, *mounted.command()[7:])
        assert again.returncode == 2
        assert "still runs" in again.stderr
        assert program.does("os.write(file, b'two'); os.close(file)") == "ok"
    mounted.wait_for_end()
    assert visible(server) == {"notes.md": b"onetwo"}


@ANOTHER
def test_a_file_system_mounted_at_the_same_place_later_is_left_alone(server: Server, mount: Mount) -> None:
    """A mount that was detached and ends by a signal unmounts nothing that is not its own."""
    mounted = mount(timeout=1)
    with detached(mounted), another_on(mounted.path):
        end(mounted)
        assert code_of(mounted) == 0
        assert is_mounted(mounted.path)


# signals


def test_a_signal_ends_a_mount_with_open_files_within_twice_the_timeout(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6: SIGTERM ends the mount within twice --timeout; a program that is cut off gets an error."""
    mounted = mount(timeout=2)
    with holding(mounted.path / "notes.md") as program:
        assert program.does("os.write(file, b'one')") == "ok"
        began = time.monotonic()
        end(mounted)
        mounted.wait_for_end()
        assert time.monotonic() - began < 2 * 2 + 5
        assert "cut off" in mounted.log
        assert visible(server) == {"notes.md": b"one"}
        assert program.does("os.write(file, b'two')") in {"ENOTCONN", "EIO", "ECONNABORTED"}
    mounted.mount()
    assert (mounted.path / "notes.md").read_bytes() == b"one"


def test_a_second_signal_ends_the_wait_and_keeps_unsent_files(server: Server, mount: Mount) -> None:
    mounted = mount(timeout=60)
    with holding(mounted.path / "notes.md") as program:
        assert program.does("os.write(file, b'one')") == "ok"
        end(mounted)
        eventually(lambda: "a second signal" in mounted.log)
        server.faults.set_rate("hang", 1.0, on="change")
        assert program.does("os.write(file, b'two')") == "ok"
        end(mounted)
        assert code_of(mounted) == 1
        assert "kept for the next mount" in mounted.log
    sent_by_the_next(server, mounted, {"notes.md": b"onetwo"})


# a server that does not take what is unsent


def test_umount_gives_up_on_a_server_that_answers_but_accepts_no_save(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6.4: within `--timeout`; the rest is for the next mount."""
    mounted = mount(timeout=20)
    assert os.listdir(mounted.path) == []
    server.faults.set_rate("hang", 1.0, on="change")
    (mounted.path / "unsent.txt").write_bytes(b"kept")
    began = time.monotonic()
    done = mounted.jobfs("umount", mounted.path, "--timeout", "1")
    assert time.monotonic() - began < 1 + 15
    assert done.returncode == 1
    assert "jobfs: 1 unsent: kept for the next mount of this job: unsent.txt\n" in done.stderr
    sent_by_the_next(server, mounted, {"unsent.txt": b"kept"})


def test_the_next_mount_sends_the_files_of_a_killed_detached_mount(server: Server, mount: Mount) -> None:
    mounted = mount()
    with detached(mounted) as (program, umount):
        server.faults.set_rate("unavailable", 1.0, on="change")
        assert program.does("os.write(file, b'one'); os.close(file)") == "ok"
        mounted.kill()
        left = "jobfs: 1 unsent: kept for the next mount of this job: notes.md\n"
        assert wait_for_exit(umount) == (1, left)
    sent_by_the_next(server, mounted, {"notes.md": b"one"})


# nothing that was acknowledged is missing, nothing is left


#: Ways to end a mount. `jobfs umount` is refused now and then: a file may be just open.
WAYS: dict[str, Callable[[MountedJob], object]] = {
    "umount": lambda m: eventually(lambda: m.jobfs("umount", m.path).returncode == 0, timeout=60),
    "umount --lazy": lambda m: m.jobfs("umount", "--lazy", m.path),
    "signal": end,
    "from outside": lambda m: subprocess.run(["fusermount", "-u", "-z", str(m.path)], check=True),
}


#: Makes files, and prints the name of each once its close has returned 0; ends at the first error.
CLOSES = """
for number in range(100_000):
    try:
        file = os.open(f"{directory}/n{number}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(file, b"n%d" % number)
        os.close(file)
    except OSError:
        sys.exit()
    print(f"n{number}", flush=True)
"""


@pytest.mark.parametrize("way", WAYS)
def test_each_acknowledged_close_is_sent_at_the_end(server: Server, mounted: MountedJob, way: str) -> None:
    """vfs/semantics.md 6.5: the last drain comes after the last close that was answered, the exit code after that drain."""
    with python() as program:
        program.begins(f"directory = {str(mounted.path)!r}\n{CLOSES}")
        names = program.process.stdout
        assert names is not None
        closed = [names.readline().strip() for _ in range(30)]
        ending = threading.Thread(target=WAYS[way], args=(mounted,))
        ending.start()
        for line in names:
            if not is_mounted(mounted.path) and (mounted.path / line.strip()).exists():
                break  # it writes to the directory below by now
            closed.append(line.strip())
            if len(closed) > 400:
                program.process.terminate()
        ending.join()
    mounted.wait_for_end(60)
    there = visible(server)
    assert [name for name in closed if there.get(name) != name.encode()] == []
    for left in mounted.path.iterdir():
        left.unlink()
