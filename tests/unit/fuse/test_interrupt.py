"""Interruption: which requests are answered early, and with what."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.waiting import eventually, eventually_equal

from jobfs.fuse import interrupt
from jobfs.fuse.interrupt import Interrupter
from jobfs.fuse.requests import Opcode, WorkerSlot


@pytest.fixture(scope="module")
def dying() -> Iterator[int]:
    """A stopped program that must end: SIGTERM is pending until the program is continued."""
    with subprocess.Popen(["sleep", "600"]) as program:
        program.send_signal(signal.SIGSTOP)
        os.waitpid(program.pid, os.WUNTRACED)
        program.send_signal(signal.SIGTERM)
        eventually(lambda: interrupt.has_fatal_signal(program.pid))
        yield program.pid
        program.kill()


class Lab:
    """One slot, a pipe for the device, and `dying`, a program that must end."""

    def __init__(self, dying: int) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.slot = WorkerSlot(4096)
        self.interrupter = Interrupter(self.writer, [self.slot], lambda slots: None)
        self.dying = dying

    def request(self, opcode: int, unique: int, thread: int = 0, flags: int = 0) -> None:
        thread = thread or self.dying
        struct.pack_into("=IIQQIIIHHI", self.slot.buffer, 0, 44, opcode, unique, 1, 0, 0, thread, 0, 0, flags)
        self.slot.sequence += 1

    def answered(self) -> None:
        self.slot.sequence += 1

    def sent(self) -> list[tuple[int, int, int]]:
        try:
            data = os.read(self.reader, 4096)
        except BlockingIOError:
            return []
        return list(struct.iter_unpack("=IiQ", data))


@pytest.fixture
def lab(dying: int) -> Iterator[Lab]:
    lab = Lab(dying)
    yield lab
    os.close(lab.reader)
    os.close(lab.writer)


def looked(lab: Lab, times: int = 1) -> list[int]:
    """The numbers of the requests that were answered at so many looks."""
    for _ in range(times):
        lab.interrupter.check_slots()
    sent = lab.sent()
    assert all((length, error) == (16, -errno.EINTR) for length, error, _ in sent)
    return [unique for _, _, unique in sent]


def test_only_a_signal_to_end_is_fatal() -> None:
    """vfs/semantics.md 3.16: one that the program has blocked does not end it yet."""
    with subprocess.Popen(["env", "--block-signal=TERM", "sleep", "600"]) as program:
        status = Path(f"/proc/{program.pid}/comm")
        eventually_equal(status.read_text, "sleep\n")
        program.send_signal(signal.SIGSTOP)
        os.waitpid(program.pid, os.WUNTRACED)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            program.send_signal(number)
        fatal = interrupt.has_fatal_signal(program.pid)
        program.kill()
    assert not fatal


def test_an_interrupted_request_is_answered_once_at_the_second_check(lab: Lab) -> None:
    lab.request(Opcode.GETATTR, 0xABC)
    assert looked(lab) == []
    assert looked(lab, 2) == [0xABC]
    lab.answered()
    lab.request(Opcode.GETATTR, 0xABE)
    assert looked(lab, 2) == [0xABE]
    # A request that has been answered, or is new, is left alone.
    lab.answered()
    lab.request(Opcode.LOOKUP, 2)
    assert looked(lab) == []
    lab.answered()
    assert looked(lab) == []
    lab.request(Opcode.LOOKUP, 4)
    assert looked(lab) == []


@pytest.mark.parametrize(
    ("opcode", "flags", "early"),
    [(asking, os.O_RDWR, True) for asking in (3, 14, 15, 20, 25, 28)] + [(14, os.O_WRONLY | os.O_TRUNC, False)]
    + [(changing, 0, False) for changing in (4, 6, 8, 9, 10, 11, 12, 13, 16, 18, 21, 24, 35, 45)],
)  # fmt: skip
def test_a_changing_request_is_not_answered_early(lab: Lab, opcode: int, flags: int, early: bool) -> None:
    """vfs/semantics.md 4: an error means that it was not done."""
    lab.request(opcode, 2, flags=flags)
    assert bool(looked(lab, 3)) is early


class Observed(WorkerSlot):
    """A slot in which another thread works: each look at its sequence finds the next of these."""

    def __init__(self, *sequences: int) -> None:
        super().__init__(64)
        self._sequences = iter(sequences)

    @property
    def sequence(self) -> int:
        return next(self._sequences)

    @sequence.setter
    def sequence(self, number: int) -> None:
        """The sequence is given."""


@pytest.mark.parametrize(("sequences", "is_trusted"), [
    ((1, 1, 1), True), ((1, 1, 3), False), ((1, 1, 2), False), ((1, 3), False), ((2, 2), False),
])  # fmt: skip
def test_a_request_overwritten_during_the_check_is_not_trusted(
    sequences: tuple[int, ...], is_trusted: bool
) -> None:
    """One thread reads the next request into the buffer while another looks."""
    slot = Observed(*sequences)
    assert slot.stuck_request() is None
    assert (slot.stuck_request() is not None) is is_trusted


def test_the_interrupter_survives_any_error(lab: Lab) -> None:
    """vfs/semantics.md 3.16: whatever failed at an earlier look."""
    failures = [ValueError("a fault"), OSError(errno.EMFILE, "short")]

    def fails(slots: list[WorkerSlot]) -> None:
        if failures:
            raise failures.pop()

    lab.interrupter = Interrupter(lab.writer, [lab.slot], fails)
    lab.request(Opcode.LOOKUP, 2)
    lab.interrupter.start()
    eventually_equal(lambda: [unique for _, _, unique in lab.sent()], [2])
    lab.interrupter.stop()


def test_a_closed_fuse_device_is_not_an_error(lab: Lab) -> None:
    lab.interrupter = Interrupter(lab.reader, [lab.slot], lambda slots: None)  # nobody can write there
    lab.request(Opcode.LOOKUP, 2)
    assert looked(lab, 2) == []
