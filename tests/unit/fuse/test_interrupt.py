"""Interruption: who is answered early, and with what."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from jobfs.fuse import interrupt
from jobfs.fuse.interrupt import Desk, Interrupter, Opcode, told_to_end

#: Takes signals by handlers or not at all, and says when it does; stopped, it keeps them waiting. Its name, of which the
#: kernel keeps 15 bytes, ends within a character.
PROGRAM = """
import signal, sys, time
open("/proc/self/comm", "wb").write("\u0447\u0438\u0442\u0430\u0442\u0435\u043b\u044c".encode())
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def stopped() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            program.stdout.readline()
            program.send_signal(signal.SIGSTOP)
            state = Path(f"/proc/{program.pid}/stat")
            eventually(lambda: state.read_text(errors="replace").rpartition(")")[2].split()[0] == "T")
            yield program
        finally:
            program.kill()


def test_only_a_signal_that_ends_programs_and_is_not_blocked_tells_one_to_end(
    stopped: subprocess.Popen[str],
) -> None:
    assert not told_to_end(stopped.pid)
    stopped.send_signal(signal.SIGUSR1)
    stopped.send_signal(signal.SIGINT)
    assert not told_to_end(stopped.pid)
    stopped.send_signal(signal.SIGTERM)
    assert told_to_end(stopped.pid)


def test_a_program_that_is_gone_is_not_told_anything() -> None:
    with subprocess.Popen(["true"]) as program:
        program.wait()
    assert not told_to_end(program.pid)


class Lab:
    """One desk, a pipe for the device, and programs that are told to end as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.desk = Desk(4096)
        self.interrupter = Interrupter(self.writer, [self.desk])
        self.told = {7}
        monkeypatch.setattr(interrupt, "told_to_end", lambda thread: thread in self.told)

    def request(self, opcode: int, unique: int, thread: int = 7, flags: int = 0) -> None:
        struct.pack_into("=IIQQIIIHHI", self.desk.buffer, 0, 44, opcode, unique, 1, 0, 0, thread, 0, 0, flags)
        self.desk.turn += 1

    def answered(self) -> None:
        self.desk.turn += 1

    def sent(self) -> list[tuple[int, int, int]]:
        try:
            data = os.read(self.reader, 4096)
        except BlockingIOError:
            return []
        return list(struct.iter_unpack("=IiQ", data))


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    lab = Lab(monkeypatch)
    yield lab
    os.close(lab.reader)
    os.close(lab.writer)


def test_a_request_is_answered_once_at_the_second_look(lab: Lab) -> None:
    lab.request(Opcode.GETATTR, 0xABC)
    lab.interrupter.look(1.0)
    assert lab.sent() == []
    lab.interrupter.look(1.2)
    lab.interrupter.look(1.4)
    assert lab.sent() == [(16, -errno.EINTR, 0xABC)]
    lab.answered()
    lab.request(Opcode.GETATTR, 0xABE)
    lab.interrupter.look(1.6)
    lab.interrupter.look(1.8)
    assert lab.sent() == [(16, -errno.EINTR, 0xABE)]


def test_what_was_answered_or_came_just_now_is_left_alone(lab: Lab) -> None:
    lab.request(Opcode.LOOKUP, 2)
    lab.interrupter.look(1.0)
    lab.answered()
    lab.interrupter.look(1.2)
    lab.request(Opcode.LOOKUP, 4)
    lab.interrupter.look(1.4)
    assert lab.sent() == []


def test_it_may_be_told_at_any_time(lab: Lab) -> None:
    lab.request(Opcode.OPEN, 2, thread=8)
    for now in (1.0, 1.2, 1.4):
        lab.interrupter.look(now)
    assert lab.sent() == []
    lab.told.add(8)
    lab.interrupter.look(1.6)
    assert lab.sent() == [(16, -errno.EINTR, 2)]


@pytest.mark.parametrize(
    ("opcode", "flags"),
    [(3, 0), (14, os.O_RDWR), (20, 0), (25, 0), (28, 0)] + [(14, os.O_WRONLY | os.O_TRUNC)]
    + [(changing, 0) for changing in (4, 6, 8, 9, 10, 11, 12, 13, 16, 18, 21, 24, 35, 45)],
)  # fmt: skip
def test_what_changes_something_by_itself_is_not_answered_early(lab: Lab, opcode: int, flags: int) -> None:
    """vfs/semantics.md 4: an error means that it was not done."""
    lab.request(opcode, 2, flags=flags)
    for now in (1.0, 1.2, 9.0):
        lab.interrupter.look(now)
    changes = opcode not in {3, 14, 20, 25, 28} or bool(flags & os.O_TRUNC)
    assert bool(lab.sent()) is not changes


def test_a_read_has_a_second(lab: Lab) -> None:
    lab.request(Opcode.READ, 2)
    for now in (1.0, 1.2, 1.9):
        lab.interrupter.look(now)
    assert lab.sent() == []
    lab.interrupter.look(2.1)
    assert lab.sent() == [(16, -errno.EINTR, 2)]


def test_a_request_that_changes_under_the_look_is_not_believed(lab: Lab) -> None:
    """One thread reads the next request into the buffer while another looks."""
    lab.request(Opcode.LOOKUP, 2)
    assert lab.desk.waiting(1.0) is None

    def busy() -> None:
        while not done.is_set():
            lab.answered()
            for number in range(8):
                lab.desk.buffer[8 + number] = bytes([lab.desk.turn & 0x7F])
            lab.desk.turn += 1

    done = threading.Event()
    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(2000):
            request = lab.desk.waiting(1.0)
            assert request is None or len(set(request.unique.to_bytes(8, "little"))) == 1
    finally:
        done.set()
        thread.join()


def test_a_device_that_is_gone_is_no_error(lab: Lab) -> None:
    reader = os.open("/dev/null", os.O_RDONLY)
    try:
        interrupter = Interrupter(reader, [lab.desk])
        lab.request(Opcode.LOOKUP, 2)
        interrupter.look(1.0)
        interrupter.look(1.2)
    finally:
        os.close(reader)
