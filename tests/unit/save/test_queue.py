"""When transactions run, in which order, how often."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from jobfs.writeback import uploader as module
from jobfs.writeback.records import Save, SaveKind, State
from jobfs.writeback.transaction import Transaction
from jobfs.writeback.uploader import Uploader
from tests.support.waiting import eventually

from jobfs.errors import FsError, InvalidRequestError, JobfsError, UnavailableError


class Runner:
    """Runs transactions as the test wants: waits for `gate`, fails with what is in `failures`, else promotes."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failures: dict[int, list[BaseException]] = {}

    def __call__(self, work: Transaction) -> None:
        self.ran.append(work.save.seq)
        assert self.gate.wait(10)
        if failures := self.failures.get(work.save.seq):
            error = failures.pop(0)
            if isinstance(error, InvalidRequestError):
                work.save.refused = str(error)
            raise error
        work.save.become(State.STAGED)
        work.save.become(State.PROMOTED)


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def uploader(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Uploader]:
    monkeypatch.setattr(module, "_BACKOFF_FIRST", 0.01)
    uploader = Uploader(runner, workers=4, timeout=5.0)
    uploader.start()
    yield uploader
    runner.gate.set()
    uploader.stop()


def transaction(seq: int, target: str = "file") -> Transaction:
    return Transaction(Save(seq, SaveKind.SAVE, target))


def waiting(call: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with suppress(JobfsError):
            call()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_what_is_due_runs_once(uploader: Uploader, runner: Runner) -> None:
    work, later = transaction(1), transaction(2, "other")
    uploader.add(later, 3600)
    uploader.add(work, 0.0)
    eventually(lambda: work.settled)
    assert uploader.drain(0.0) == [later] or later.settled
    assert runner.ran.count(1) == 1


def test_one_target_is_saved_in_order_others_in_parallel(uploader: Uploader, runner: Runner) -> None:
    """semantics 4: one stuck upload never blocks another file."""
    runner.gate.clear()
    first, second, other = transaction(1), transaction(2), transaction(3, "other")
    for work in (second, first, other):
        uploader.add(work, 0.05)
    eventually(lambda: set(runner.ran) == {1, 3})
    assert not second.running
    runner.gate.set()
    eventually(lambda: second.settled)
    assert runner.ran.index(1) < runner.ran.index(2)


def test_what_fails_for_now_is_tried_again(uploader: Uploader, runner: Runner) -> None:
    """semantics 4: an upload that fails is retried with backoff."""
    work = transaction(1)
    runner.failures[1] = [
        UnavailableError("not now"),
        FsError(errno.EIO, "a bad moment"),
        RuntimeError("a surprise"),
    ]
    uploader.add(work, 0.0)
    eventually(lambda: work.settled)
    assert runner.ran == [1, 1, 1, 1]
    assert (work.error, work.attempts) == (None, 0)


def test_the_backoff_grows(uploader: Uploader, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKOFF_FIRST", 100.0)
    work = transaction(1)
    runner.failures[1] = [UnavailableError("not now")] * 2
    uploader.add(work, 0.0)
    eventually(lambda: work.attempts == 1 and not work.running)
    assert uploader.unsent() == [work]
    assert "not now" in str(work.error)
    assert runner.ran == [1], "not before its time"


def test_nobody_asks_again_before_the_server_wants_to_be_asked(uploader: Uploader, runner: Runner) -> None:
    """semantics 5: 429 and 503 with Retry-After: as long as the server says."""
    in_background, committed = transaction(1), transaction(2, "other")
    for work in (in_background, committed):
        busy = UnavailableError("too many requests")
        busy.wait = 100.0
        runner.failures[work.save.seq] = [busy]
    uploader.add(in_background, 0.0)
    eventually(lambda: in_background.attempts == 1 and not in_background.running)
    assert in_background.due > time.monotonic() + 90
    uploader.add(committed, 3600)
    with pytest.raises(UnavailableError, match="too many requests"):
        uploader.commit(committed)
    assert runner.ran == [1, 2], "the wait would be longer than anybody waits for a commit"


def test_what_is_refused_rests_until_it_is_asked_for(uploader: Uploader, runner: Runner) -> None:
    """semantics 4: refused for good: keeps its bytes, is `failed`."""
    work = transaction(1)
    runner.failures[1] = [InvalidRequestError("no")]
    uploader.add(work, 0.0)
    eventually(lambda: work.save.refused and not work.running)
    assert uploader.drain(5.0) == [work], "a drain does not wait for it"
    assert runner.ran == [1]


def test_commit_returns_when_the_server_has_it(uploader: Uploader, runner: Runner) -> None:
    """semantics 4: fsync returns when the server has it."""
    work = transaction(1)
    uploader.add(work, 3600)
    uploader.commit(work)
    assert work.settled
    runner.gate.clear()
    going = transaction(2)
    uploader.add(going, 0.0)
    eventually(lambda: going.running)
    thread = waiting(lambda: uploader.commit(going))
    runner.gate.set()
    thread.join(10)
    assert going.settled
    assert runner.ran == [1, 2], "nobody ran it twice"


def test_commit_runs_what_has_to_come_first(uploader: Uploader, runner: Runner) -> None:
    first, second = transaction(1), transaction(2)
    uploader.add(first, 3600)
    uploader.add(second, 3600)
    uploader.commit(second)
    assert runner.ran == [1, 2]


def test_commit_raises_what_kept_it(uploader: Uploader, runner: Runner) -> None:
    """semantics 4.7: fsync returns with the error."""
    work = transaction(1)
    uploader.add(work, 3600)
    runner.failures[1] = [InvalidRequestError("no")]
    with pytest.raises(InvalidRequestError):
        uploader.commit(work)
    away = transaction(2, "away")
    uploader.add(away, 3600)
    runner.failures[2] = [UnavailableError("nobody there")] * 100
    with pytest.raises(UnavailableError):
        uploader.commit(away, 0.0)
    assert not away.running


def test_commit_of_what_somebody_else_runs_has_a_deadline(uploader: Uploader, runner: Runner) -> None:
    """semantics 3: no call can hang for ever."""
    runner.gate.clear()
    work = transaction(1)
    uploader.add(work, 0.0)
    eventually(lambda: work.running)
    with pytest.raises(UnavailableError) as caught:
        uploader.commit(work, 0.02)
    assert caught.value.errno == errno.ETIMEDOUT


def test_commit_of_what_is_cancelled_returns(uploader: Uploader, runner: Runner) -> None:
    """save-protocol R10."""
    runner.gate.clear()
    work = transaction(1)
    uploader.add(work, 0.0)
    eventually(lambda: work.running)
    thread = waiting(lambda: uploader.commit(work))
    work.save.state = State.CANCELLED
    runner.failures[1] = [UnavailableError("lost")]
    runner.gate.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_held_directory_is_at_rest(uploader: Uploader, runner: Runner) -> None:
    """semantics 4: a directory is renamed while nothing below it is half saved."""
    runner.gate.clear()
    inside, outside = transaction(1, "dir/sub/file"), transaction(2, "dirt")
    uploader.add(inside, 0.0)
    eventually(lambda: inside.running)
    with pytest.raises(UnavailableError), uploader.hold("dir", 0.02):
        pass
    runner.gate.set()
    with uploader.hold("dir", 5.0):
        assert inside.settled
        late = transaction(3, "dir/late")
        uploader.add(late, 0.0)
        uploader.add(outside, 0.0)
        eventually(lambda: outside.settled)
        assert 3 not in runner.ran
    eventually(lambda: late.settled)


def test_only_what_was_never_sent_can_be_taken(uploader: Uploader, runner: Runner) -> None:
    work = transaction(1)
    uploader.add(work, 3600)
    assert uploader.take(work)
    assert uploader.live() == []
    begun = transaction(2)
    begun.save.tid = "begun"
    uploader.add(begun, 3600)
    assert not uploader.take(begun)
    assert uploader.live() == [begun]


def test_a_drain_sends_what_is_below_a_path_and_says_what_is_left(uploader: Uploader, runner: Runner) -> None:
    inside, outside = transaction(1, "dir/file"), transaction(2, "other")
    uploader.add(inside, 3600)
    uploader.add(outside, 3600)
    assert uploader.drain(5.0, "dir") == []
    assert inside.settled
    runner.failures[3] = [UnavailableError("not now")] * 1000
    stuck = transaction(3, "stuck")
    uploader.add(stuck, 3600)
    assert uploader.drain(0.1) == [stuck]


def test_what_is_done_is_not_known_any_more(uploader: Uploader) -> None:
    work = transaction(1)
    uploader.add(work, 0.0)
    eventually(lambda: work.settled)
    assert uploader.live() == [work]
    work.save.become(State.DONE)
    uploader.remove(work)
    uploader.add(work, 0.0)
    assert uploader.live() == []


def test_of_many_saves_of_few_names_each_name_has_one_at_a_time_in_order(
    uploader: Uploader, runner: Runner
) -> None:
    runner.gate.clear()
    works = [transaction(seq, f"file{seq % 3}") for seq in range(1, 10)]
    for work in works:
        uploader.add(work, 0.0)
    eventually(lambda: len(runner.ran) >= 3)
    runner.gate.set()
    eventually(lambda: all(work.settled for work in works))
    for name in range(3):
        assert [seq for seq in runner.ran if seq % 3 == name] == [
            seq for seq in range(1, 10) if seq % 3 == name
        ]
