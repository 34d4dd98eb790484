"""Mounts as a service, and mounts that died: the messages, and what the next command does about them (vfs/semantics.md 6)."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.support.mounts import Mount, environment, is_mounted
from tests.support.serverside import visible
from tests.support.waiting import eventually

from jobfs.emulator import Server


def test_the_unit_mounts_notifies_systemd_and_drains(server: Server, mount: Mount, tmp_path: Path) -> None:
    """`jobfs systemd-unit`, and sd_notify(3): ready when the mount answers, stopping."""
    mounted = mount(start=False, write_back_delay=0.2)
    options = [word for word in mounted.command()[6:] if word != "--foreground"]
    printed = mounted.jobfs("systemd-unit", server.job, mounted.path, *options)
    assert printed.returncode == 0, printed.stderr
    unit = dict(line.split("=", 1) for line in printed.stdout.splitlines() if line[:4] == "Exec")
    words: list[str] = []

    def hears(name: str, value: str = "") -> str:
        """Wait until the manager gets `value`, or any value, under this name."""
        while True:
            words[:] = words or ear.recv(4096).decode().splitlines()
            found, _, content = words.pop(0).partition("=")
            if found == name and value in ("", content):
                return content

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear, ExitStack() as stack:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(20)
        env = {**environment(mounted.home, mounted.key), "NOTIFY_SOCKET": str(tmp_path / "notify")}
        process = stack.enter_context(
            subprocess.Popen(shlex.split(unit["ExecStart"]), env=env, stdout=subprocess.DEVNULL)
        )
        stack.callback(process.kill)
        hears("READY", "1")
        assert os.listdir(mounted.path) == []
        assert int(hears("MAINPID")) == process.pid == mounted.status()["pid"]
        (mounted.path / "last").write_bytes(b"at the end")
        command = shlex.split(unit["ExecStop"].removeprefix("-"))
        env = environment(mounted.home, None)
        stop = subprocess.run(command, env=env, capture_output=True, text=True, timeout=40)
        assert (stop.returncode, stop.stderr) == (0, "")
        hears("STOPPING", "1")
        assert process.wait(20) == 0
    assert visible(server) == {"last": b"at the end"}


def test_the_next_command_unmounts_a_dead_mount(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6: "Transport endpoint is not connected" is one sentence wherever it is met."""
    mounted = mount(write_back_delay=30)
    gone = f"jobfs: the process that served {mounted.path} is gone"
    (mounted.path / "file").write_bytes(b"kept")
    mounted.kill_only()
    left = "it has left 1 unsent: kept for the next mount of this job: file"
    remedy = f"{gone}: mount the job there again, or run jobfs umount {mounted.path}; {left}\n"
    for words in (("flush", mounted.path), ("status",)):
        done = mounted.jobfs(*words, "--state-dir", mounted.state)
        assert (done.returncode, done.stderr) == (2, remedy)
    assert is_mounted(mounted.path)
    # mount itself, though there is something to report. It would send resumed changes at once.
    server.faults.set_rate("unavailable", 1.0, on="create")
    mounted.mount()
    assert f"{gone}: its dead mount was removed\n" in mounted.log
    assert (mounted.path / "file").read_bytes() == b"kept"
    # umount: 1 while the server lacks something. --all knows the mounts of its state directory.
    with open(mounted.path / "file"):
        mounted.kill_only()
        done = mounted.jobfs("umount", "--all", "--state-dir", mounted.state)
        assert f"{gone}: its dead mount was removed; {left}: mount the job again" in done.stderr
        assert (done.returncode, is_mounted(mounted.path)) == (1, False)
    server.faults.clear()
    mounted.mount()
    mounted.wait_until_settled()
    mounted.kill_only()
    done = mounted.jobfs("umount", mounted.path)
    assert (done.returncode, done.stderr) == (0, f"{gone}: its dead mount was removed\n")
    assert mounted.jobfs("umount", "--all").stderr == "jobfs: no job is mounted\n"


def test_what_is_written_while_a_dead_mount_is_replaced_is_not_covered(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6.3: a program that has not noticed its end writes into the bare directory."""
    mounted = mount()
    mounted.kill_only()
    server.faults.fail_next("slow", on="instance", delay=0.5)
    with mounted.running(*mounted.command()[3:]) as process:
        eventually(lambda: not server.faults.rules(), "the dead mount is removed")
        (mounted.path / "file").write_bytes(b"not in the job")
        _, said = process.communicate(timeout=20)
    remedy = "move away what is in it, or give an empty directory"
    assert (process.returncode, said.splitlines()[-1]) == (2, f"jobfs: {mounted.path} is not empty: {remedy}")
    (mounted.path / "file").unlink()
    mounted.mount()


def test_a_mount_ends_cleanly_after_the_reader_of_its_output_is_gone(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6: on a signal the mount waits for open files, then detaches; the reader of its output may be gone.

    What it could not write is in a buffer until the process ends, if Python buffers.
    """
    mounted = mount(start=False, timeout=2)
    env = environment(mounted.home, mounted.key)
    env.pop("PYTHONUNBUFFERED", None)
    with subprocess.Popen(
        mounted.command(), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        process.stderr.close()
        with open(mounted.path / "held", "w") as held:
            held.write("not closed yet")
            process.send_signal(signal.SIGINT)
            eventually(lambda: not is_mounted(mounted.path))
            with suppress(OSError):
                held.close()
        assert process.wait(30) == 0


@pytest.mark.needs_program("pgrep")
def test_a_mount_is_removed_if_its_command_was_stopped(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6.1: a user who stopped the command does not want the mount, and finds no dead mount."""
    mounted = mount(start=False)
    server.faults.set_rate("slow", 1.0, on="list", delay=3.0)
    words = [word for word in mounted.command() if word != "--foreground"]
    with subprocess.Popen(words, env=environment(mounted.home, mounted.key)) as waiting:
        asked = server.log.count()
        eventually(lambda: server.log.count() > asked, "it has begun")
        waiting.kill()
    eventually(lambda: not subprocess.run(["pgrep", "-f", str(mounted.path)], capture_output=True).stdout)
    assert not is_mounted(mounted.path)
