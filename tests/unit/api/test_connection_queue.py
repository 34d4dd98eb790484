"""Who may use the connections, and in which order (vfs/semantics.md 3)."""

from __future__ import annotations

import errno
import itertools
import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from jobfs import errors
from jobfs.api import connection_queue as module
from jobfs.api.connection_queue import ConnectionQueue, Priority, make_transport, socket_options
from jobfs.api.deadline import UNBOUNDED, Deadline

WAITED, BACKGROUND = Deadline(UNBOUNDED), Deadline(UNBOUNDED, foreground=False)


def count_granted(line: ConnectionQueue, deadline: Deadline, **kind: bool) -> int:
    """How many of this kind get a connection at once."""
    return next(count for count in itertools.count() if not ask(line, deadline, **kind).done())


def ask(line: ConnectionQueue, deadline: Deadline, **kind: Any) -> Future[Priority]:
    """Ask in a thread of its own; returns once that has its connection, or waits for it."""
    future, before = Future[Priority](), list(line._waiting)

    def take() -> None:
        try:
            future.set_result(line.acquire(deadline, "x", **kind))
        except errors.JobfsError as error:
            future.set_exception(error)

    def waits() -> bool:
        with line._lock:  # who is served at once waits for a moment, too
            return any(all(waiter is not other for other in before) for waiter in line._waiting)

    threading.Thread(target=take, daemon=True).start()
    while not (future.done() or waits()):
        time.sleep(0.001)
    return future


@pytest.mark.parametrize(("connections", "large", "background", "background_large"), [
    (16, 8, 14, 4), (8, 4, 6, 2), (4, 2, 3, 1), (3, 1, 2, 1), (2, 1, 1, 1), (1, 1, 1, 1),
])  # fmt: skip
def test_two_connections_are_reserved_for_small_foreground_requests(
    connections: int, large: int, background: int, background_large: int
) -> None:
    for deadline, kind, most in (
        (WAITED, {"large": True}, large),
        (BACKGROUND, {}, background),
        (BACKGROUND, {"large": True}, background_large),
        (WAITED, {}, connections),
    ):
        line = ConnectionQueue(connections)
        assert count_granted(line, deadline, **kind) == most
        line.close()


def test_a_free_connection_goes_to_the_waiter_of_highest_priority() -> None:
    line = ConnectionQueue(1)
    slot = line.acquire(WAITED, "x")
    waiting = [
        ask(line, deadline, large=large) for deadline in (BACKGROUND, WAITED) for large in (True, False)
    ]
    for rank, future in zip(Priority, reversed(waiting), strict=True):
        assert line.has_waiter_before(priority=rank + 1)
        line.release(slot)
        slot = future.result(10)
        assert slot is rank


def test_taking_two_connections_leaves_the_reserved_ones() -> None:
    """save/protocol.md R13: two at the same moment, of the connections that their rank may have."""
    line = ConnectionQueue(16)
    assert [line.acquire(BACKGROUND, "x", count=2) for _ in range(7)] == [Priority.BACKGROUND] * 7
    background = ask(line, BACKGROUND, count=2)
    assert line.acquire(WAITED, "x", count=2) is Priority.SMALL
    line.release(Priority.BACKGROUND)
    assert not background.done(), "one is free"
    line.release(Priority.BACKGROUND)
    assert background.result(10) is Priority.BACKGROUND
    line.close()


@pytest.mark.parametrize("connections", [1, 2])
def test_pairs_are_granted_only_if_every_priority_has_two_connections(connections: int) -> None:
    """save/protocol.md R13: who waits for two would wait for ever."""
    assert not ConnectionQueue(connections).can_grant_pairs


def test_a_wait_for_two_connections_is_not_overtaken_by_its_priority() -> None:
    """save/protocol.md R8, R13: its look grows old, and requests for one would always find one free before it finds two."""
    line = ConnectionQueue(4)
    for _ in range(4):
        line.acquire(WAITED, "x")
    earlier = ask(line, WAITED)
    two, later = ask(line, WAITED, count=2), ask(line, WAITED)
    line.release(Priority.SMALL)
    assert not any(each.done() for each in (earlier, two, later)), "one is free, and kept"
    line.release(Priority.SMALL)
    assert two.result(10) is Priority.SMALL
    assert not any(each.done() for each in (earlier, later))
    line.release(Priority.SMALL)
    line.release(Priority.SMALL)
    assert earlier.result(10) is later.result(10) is Priority.SMALL
    line.close()


def test_a_background_request_is_promoted_once_a_program_waits_for_it() -> None:
    line = ConnectionQueue(1)
    slot = line.acquire(WAITED, "x")
    attempt = Deadline(UNBOUNDED, foreground=False)
    first, second = ask(line, BACKGROUND), ask(line, attempt)
    with attempt.attach_waiter(WAITED):
        line.release(slot)
        assert second.result(10) is Priority.SMALL
    assert not first.done()
    line.close()


def test_foreground_waits_until_its_deadline_and_background_for_its_turn() -> None:
    line = ConnectionQueue(1)
    slot = line.acquire(WAITED, "x")
    late, patient = ask(line, Deadline(0.05)), ask(line, Deadline(0.05, foreground=False))
    with pytest.raises(errors.OutOfTimeError, match="no connection") as caught:
        late.result(10)
    assert caught.value.errno == errno.ETIMEDOUT
    line.release(slot)
    assert patient.result(10) is Priority.BACKGROUND


def test_a_wait_for_transfers_that_progress_does_not_time_out() -> None:
    line = ConnectionQueue(1)
    slot = line.acquire(WAITED, "x", large=True)
    waiting = ask(line, Deadline(0.4), large=True)
    line.progress_at = time.monotonic() + 60.0  # they still progress
    time.sleep(1.0)
    assert not waiting.done()
    line.release(slot)
    assert waiting.result(10) is Priority.LARGE


def test_a_closed_queue_hands_out_no_connection() -> None:
    line = ConnectionQueue(1)
    line.acquire(WAITED, "x")
    waiting = ask(line, BACKGROUND)
    line.close()
    with pytest.raises(errors.UnavailableError, match="closed"):
        waiting.result(10)
    with pytest.raises(errors.UnavailableError, match="closed"):
        line.acquire(WAITED, "x")


def test_unreadable_certificates_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module._ssl_context.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    with pytest.raises(errors.UsageError, match="SSL_CERT_FILE"):
        make_transport("https://127.0.0.1:1", 30, 4)


@pytest.mark.parametrize("timeout", [0.1, 1, 30, 3600])
def test_a_dead_peer_is_detected_before_the_deadline(timeout: float) -> None:
    options = {option: value for _, option, value in socket_options(timeout)}
    assert 1 <= options[socket.TCP_KEEPIDLE] <= max(1, timeout)
    assert 1000 <= options[socket.TCP_USER_TIMEOUT] <= max(1, timeout) * 1000
    with socket.socket() as sock:
        for level, option, value in socket_options(timeout):
            sock.setsockopt(level, option, value)
