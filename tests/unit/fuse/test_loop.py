"""The threads that serve requests: a fault in one request is that request's error, and no other's."""

from __future__ import annotations

import errno
import socket
import struct
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fuse", exc_type=ImportError)

from jobfs.fuse.loop import ReadToken, Session
from jobfs.fuse.requests import CurrentSlot, Opcode, WorkerSlot
from jobfs.fuse.sizes import KernelSizes


def request(opcode: int, unique: int) -> bytes:
    return struct.pack("=IIQQIIII", 40, opcode, unique, 1, 0, 0, 7, 0)


def test_an_unexpected_error_is_answered_and_its_thread_continues(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 3.15: no call waits forever."""
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, device:
        session = Session.__new__(Session)
        session.device, session.closed, session._current = device.fileno(), False, CurrentSlot()
        session._injector = SimpleNamespace(helpers={})  # type: ignore[assignment]
        session.operations = SimpleNamespace(kernel_sizes=KernelSizes())  # type: ignore[assignment]
        served: list[int] = []

        def answered(slot: WorkerSlot, unique: int, node: int) -> bool:
            served.append(unique)
            if len(served) == 1:
                slot.request.must_detach_node = True
                raise ValueError("a fault")
            session.closed = True
            return True

        monkeypatch.setattr(session, "_reply_from_cache", answered)
        for unique in (2, 4, 6):
            kernel.send(request(Opcode.GETATTR, unique))
        slot, readers = WorkerSlot(4096), ReadToken(lambda: None)
        assert session.serve_requests(slot, readers)
        kernel.setblocking(False)
        answer: Any = struct.unpack("=IiQ", kernel.recv(100))
        assert (served, answer) == ([2, 4], (16, -errno.EIO, 2))
        with pytest.raises(BlockingIOError):
            kernel.recv(100)
        assert (slot.sequence % 2, slot.request.must_detach_node) == (0, False)
    assert "request 2 (opcode 3) failed unexpectedly" in caplog.text
