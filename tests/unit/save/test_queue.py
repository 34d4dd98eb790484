"""When changes run, in which order, how often (vfs/semantics.md 4; save/protocol.md R7, R10)."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.support.waiting import eventually

from jobfs.api import deadline
from jobfs.api.failures import RequestInfo
from jobfs.api.health import Health
from jobfs.errors import (
    REFUSALS,
    AnswerLostError,
    ApiError,
    FsError,
    InvalidRequestError,
    OutOfTimeError,
    UnavailableError,
)
from jobfs.nodes import Kind
from jobfs.save.queue import WHILE_OPEN, ChangeQueue
from jobfs.state import Change, State, edit
from jobfs.state.records import Aside, Handle, Stage, Verb

from .world import World

CREATE = RequestInfo("create", "POST", "/", is_change=True)
#: Seconds after which nothing in these tests is due by itself.
NEVER = 3600.0


class AskedHealth(Health):
    """Counts how often the queue has looked for work, and raises `failures` first."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.failures = 0, list[Exception]()

    def background_delay(self, *, changing: bool) -> float:
        self.asked += 1
        if self.failures:
            raise self.failures.pop()
        return super().background_delay(changing=changing)


class Runner:
    """Runs changes as the test wants: waits for `gate`, fails with `failures`, or `away`; else places."""

    def __init__(self, world: World) -> None:
        self.world, self.state = world, world.state
        self.health = world.client.health = AskedHealth()
        verb = cast(Any, self)
        self.queue = ChangeQueue(world.context, verb, verb, delay=NEVER)
        self.ran, self.bound = list[int](), deadline.current_deadline()
        self.finished: list[int] = []
        self.running = self.most = 0
        self.gate, self.clean = threading.Event(), threading.Event()
        self.gate.set()
        self.clean.set()
        self.failures: dict[int, list[BaseException]] = {}
        self.away = False
        self._lock = threading.Lock()

    def put(self, target: str = "file", **values: Any) -> Change:
        return self.state.plan_change(Verb.PUT, target, **values)

    def add(self, *changes: Change, delay: float = 0.0) -> None:
        for change in changes:
            self.queue.add_change(change, delay)

    def limit(self, **limits: Any) -> None:
        """Give the queue other limits than those of a mount."""
        self.queue.limits = replace(self.queue.limits, **limits)

    def commit(self, *changes: Change, seconds: float = 20.0) -> None:
        """Wait for changes one after another, at most so many seconds."""
        with deadline.limit_time(seconds):
            for change in changes:
                self.queue.run_until_finished(change)

    def has_run(self, change: Change) -> bool:
        """Whether a change that is due has been started, once the queue has looked at all that are due."""
        self.add(probe := self.put("probe"))
        eventually(lambda: probe.is_settled)
        return change.seq in self.ran

    def run_change(self, change: Change) -> None:
        with self._lock:
            self.ran.append(change.seq)
            self.bound = deadline.current_deadline()
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            assert self.gate.wait(20)
            if self.away:
                self.health.admit_with_timeout(CREATE, foreground=False)
                error = UnavailableError("nobody there")
                self.health.note_error(CREATE, error)
                raise error
            if failures := self.failures.get(change.seq):
                self._fail(change, failures.pop(0))
            self.health.note_success(changing=True)
            if change.stage is Stage.STAGING:
                self.state.write(edit(change, stage=Stage.STAGED))
            if change.stage is Stage.STAGED:
                self.state.write(edit(change, stage=Stage.PLACED))
                self._record_saved(change)
        finally:
            with self._lock:
                self.running -= 1

    run_removal = run_change

    def _fail(self, change: Change, error: BaseException) -> None:
        if isinstance(error, REFUSALS):
            if change.file is not None:
                self.state.write(edit(change.file, refused=str(error)))
            self.state.end_change(change)
        if isinstance(error, UnavailableError) and error.wait:
            self.health.note_error(CREATE, error)
        raise error

    def _record_saved(self, change: Change) -> None:
        file = change.file
        if file is not None:
            file.change = None
            if file.generation == change.generation:
                self.state.apply_in_memory(file, generation=0)

    def clean_up(self, change: Change) -> float:
        assert self.clean.wait(20)
        self.finished.append(change.seq)
        if failures := self.failures.get(change.seq):
            raise failures.pop(0)
        later = max((aside.unsure_until for aside in change.asides), default=0.0)
        if later > time.monotonic():
            return later
        self.state.end_change(change)
        return 0.0


@pytest.fixture
def runner(world: World) -> Iterator[Runner]:
    runner = Runner(world)
    runner.limit(first_delay=0.01)
    runner.queue.start()
    yield runner
    runner.gate.set()
    runner.clean.set()
    runner.queue.stop()


def cancelled(state: State, target: str = "file", **values: Any) -> Change:
    """A save whose file was unlinked."""
    change = state.plan_change(Verb.PUT, target, started=True, **values)
    state.write(edit(change, stage=Stage.CANCELLED))
    return change


def unsure_aside() -> Aside:
    """An item that cleanup can't judge soon: a request on it went unanswered."""
    return Aside("x", "h", moved=True, unsure_until=time.monotonic() + NEVER)


def running_change(runner: Runner, change: Change) -> Change:
    """A Change that runs until the gate is opened."""
    runner.gate.clear()
    runner.add(change)
    eventually(lambda: change.is_running)
    return change


def waiting(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


# -- in the background


def test_a_due_change_runs_once_and_is_cleaned_up(runner: Runner) -> None:
    now, later = runner.put(), runner.put("other")
    runner.add(later, delay=NEVER)
    runner.add(now)
    eventually(lambda: now.stage is Stage.DONE)
    assert (runner.ran, runner.finished, later.stage) == ([now.seq], [now.seq], Stage.STAGING)
    runner.add(now, later)
    eventually(lambda: later.stage is Stage.DONE)
    assert runner.ran == [now.seq, later.seq], "what has ended does not run again"


def test_changes_of_one_target_run_in_order_and_others_in_parallel(runner: Runner) -> None:
    runner.limit(poll_interval=NEVER)  # the others are not kept waiting
    runner.gate.clear()
    first, second, other = runner.put(), runner.put(), runner.put("other")
    with runner.state.lock:
        runner.add(second, first, other)
    eventually(lambda: set(runner.ran) == {first.seq, other.seq})
    assert not second.is_running
    runner.gate.set()
    eventually(lambda: second.is_settled)
    assert runner.ran.index(first.seq) < runner.ran.index(second.seq)


def test_the_first_of_many_changes_start_before_they_are_due(runner: Runner) -> None:
    """vfs/semantics.md 4: a user who copies a thousand files waits for the files, and not for a delay besides."""
    runner.limit(crowd=3)
    runner.gate.clear()
    works = [runner.put(f"file{number}") for number in range(5)]
    runner.add(*works, delay=NEVER)
    time.sleep(0.1)
    assert runner.ran == [], "none of them is due soon"
    runner.limit(early=2 * NEVER)
    runner.queue.wake()
    eventually(lambda: len(runner.ran) == 2)
    time.sleep(0.1)
    assert set(runner.ran) == {works[0].seq, works[1].seq}


@pytest.mark.parametrize("then", ["it ends", "the other gets another name"])
def test_an_unlink_runs_before_the_file_that_takes_its_name(runner: Runner, then: str) -> None:
    runner.clean.clear()
    unlinked, newer = cancelled(runner.state, due=time.monotonic() + NEVER), runner.put()
    runner.add(newer)
    eventually(lambda: unlinked.is_running)
    assert not runner.has_run(newer)
    if then == "it ends":
        runner.clean.set()
    else:
        runner.state.apply_in_memory(newer, target="elsewhere")
    eventually(lambda: newer.is_settled)
    finished = [seq for seq in runner.finished if seq in (unlinked.seq, newer.seq)]
    assert finished[:1] == [unlinked.seq] * (then == "it ends")


@pytest.mark.parametrize("ended", ["by the queue", "by another", "renamed"])
def test_a_change_runs_after_the_move_that_frees_its_name(runner: Runner, ended: str) -> None:
    """The move has another target: a change that waited at its source was forgotten."""
    away = runner.state.plan_change(Verb.MOVE, "elsewhere", source="file", stage=Stage.STAGED, started=True)
    newer = runner.put()
    runner.add(newer)
    assert not runner.has_run(newer)
    if ended == "by the queue":
        runner.add(away)
    elif ended == "renamed":
        runner.state.apply_in_memory(away, source="other")
    else:
        runner.state.end_change(away)
    eventually(lambda: newer.is_settled)


def test_no_more_changes_run_at_once_than_there_are_connections(runner: Runner) -> None:
    runner.gate.clear()
    works = [runner.put(str(number)) for number in range(20)]
    runner.add(*works)
    eventually(lambda: runner.running == 4)
    assert sum(thread.name.startswith("jobfs-save_") for thread in threading.enumerate()) == 4
    runner.gate.set()
    eventually(lambda: all(work.is_settled for work in works))
    assert runner.most == 4


# -- what is saved of a file


@pytest.mark.parametrize("writing", [True, False])
def test_newer_bytes_become_the_next_change_after_the_running_one(runner: Runner, writing: bool) -> None:
    """design.md, What a path shows: at most one Change a File: newer bytes wait in the File."""
    runner.gate.clear()
    file = runner.state.new_local_file(Kind.FILE, "file")
    runner.state.write(edit(file, generation=1))
    file.handles.append(Handle(file, None, os.O_RDWR if writing else os.O_RDONLY))
    first = runner.queue.schedule(file, 0.0)
    assert first is not None
    runner.state.apply_in_memory(first, generation=1)
    eventually(lambda: first.is_running)
    runner.state.write(edit(file, generation=2))
    assert runner.queue.schedule(file, 0.0) is first
    began = time.monotonic()
    runner.gate.set()
    second = eventually(lambda: file.change if file.change is not first else None)
    assert second is not None
    eventually(lambda: second.due)
    assert runner.ran == [first.seq]
    expected = WHILE_OPEN if writing else runner.queue.delay
    assert began + expected <= second.due <= time.monotonic() + expected


# -- what fails


def test_a_change_with_a_temporary_failure_is_retried(runner: Runner) -> None:
    work = runner.put()
    runner.failures[work.seq] = [UnavailableError("not now"), FsError(errno.EIO, "bad"), RuntimeError("odd")]
    runner.add(work)
    eventually(lambda: work.is_settled)
    assert runner.ran == [work.seq] * 4
    eventually(lambda: (work.error, work.attempts) == (None, 0))


def test_an_unreachable_server_is_retried_and_gets_all_changes_later(runner: Runner) -> None:
    """vfs/semantics.md 6: an outage of any length with any number of unsent files costs disk, and nothing else."""
    runner.limit(poll_interval=0.02)
    runner.away, server = True, runner.health
    works = [runner.put(str(number)) for number in range(100)]
    runner.add(*works)
    eventually(lambda: server.is_limited_to_probes and not runner.running)
    before, server.asked = server.requests, 0
    time.sleep(1.0)
    assert server.requests - before <= 2
    assert server.asked < 150, "it looks again without a pause"
    runner.limit(first_delay=0.5, max_delay=NEVER)
    runner.away = False
    eventually(lambda: all(work.is_settled for work in works))


def test_no_change_starts_before_the_end_of_retry_after(runner: Runner) -> None:
    """vfs/semantics.md 5: 429 and 503 with Retry-After: as long as the server says, whosever request it was."""
    first, second, committed = runner.put("1"), runner.put("2"), runner.put("3")
    busy = UnavailableError("too many requests")
    busy.wait = 100.0
    runner.failures = {work.seq: [busy] for work in (first, committed)}
    runner.add(first)
    eventually(lambda: first.attempts == 1 and not first.is_running)
    runner.add(second)
    with pytest.raises(UnavailableError, match="too many requests"):
        runner.queue.run_until_finished(committed)
    assert runner.health.background_delay(changing=True) > 90
    assert first.due > time.monotonic() + 90
    assert runner.ran == [first.seq, committed.seq], "the wait is longer than anybody waits for a commit"


# -- who waits


def test_commit_returns_when_the_server_has_the_bytes(runner: Runner) -> None:
    asked, work = list[object](), runner.put()
    runner.world.client.probe_and_require_reachable = asked.append  # type: ignore[assignment]
    runner.add(work, delay=NEVER)
    for _ in range(2):
        runner.queue.run_until_finished(work)
        assert (work.is_settled, asked) == (True, ["file"]), "not even a server out of reach is asked twice"
    other = running_change(runner, runner.put())
    thread = waiting(lambda: runner.queue.run_until_finished(other))
    runner.gate.set()
    thread.join(20)
    assert other.is_settled
    assert runner.ran == [work.seq, other.seq], "nobody ran it twice"


def test_a_commit_runs_the_preceding_change_first(runner: Runner) -> None:
    """vfs/semantics.md 4.7: fsync returns when the server has these bytes, and not those of the Change before."""
    first, own = runner.put(), runner.put()
    runner.queue.run_until_finished(own)
    assert (runner.ran, own.is_settled) == ([first.seq, own.seq], True)


def test_commit_retries_and_raises_the_last_error(runner: Runner) -> None:
    """vfs/semantics.md 4.7: fsync returns with the error."""
    refused, once, away, surprised = (runner.put(name) for name in "1235")
    runner.failures = {
        refused.seq: [InvalidRequestError("no")], once.seq: [UnavailableError("not now")],
        away.seq: [UnavailableError("nobody there")] * 1000, surprised.seq: [RuntimeError("a surprise")],
    }  # fmt: skip
    with pytest.raises(InvalidRequestError):
        runner.commit(refused)
    runner.commit(once)
    assert once.is_settled
    with pytest.raises(UnavailableError):
        runner.commit(away, seconds=1.0)
    assert (away.is_running, away.attempts > 0) == (False, True), "it is tried on"
    with pytest.raises(FsError, match="internal error: RuntimeError"):
        runner.commit(surprised)
    cancelled(runner.state, "4", asides=[unsure_aside()])
    with pytest.raises(OutOfTimeError, match="4 is being saved"):
        runner.commit(runner.put("4"), seconds=0.3)


def test_a_commit_passes_its_priority_and_deadline_to_the_running_change(runner: Runner) -> None:
    """vfs/semantics.md 3: what a program waits for goes before the background; a call ends after `timeout` without progress."""
    work = running_change(runner, runner.put())
    run = work.deadline
    assert run is not None
    assert not run.is_foreground
    waits, runner.world.context.timeout = threading.Event(), 0.0  # the call has a time of its own

    def commit() -> None:
        with deadline.limit_time(1.0):
            waits.set()
            runner.queue.run_until_finished(work)

    with ThreadPoolExecutor() as pool:
        done = pool.submit(commit)
        assert waits.wait(20)
        try:
            eventually(lambda: run.is_foreground)
            run.extend(60.0)
            time.sleep(1.2)
            assert not done.done()
        finally:
            runner.gate.set()
        done.result(20)
    assert (runner.bound, run.is_foreground) == (run, False)


def test_a_change_at_a_reserved_name_starts_only_for_the_holder(runner: Runner) -> None:
    inside, outside = running_change(runner, runner.put("dir/sub/file")), runner.put("dirt")
    with runner.state.reservations.hold("dir"):
        with deadline.limit_time(0.02), pytest.raises(UnavailableError):
            runner.queue.wait_idle("dir")
        runner.gate.set()
        runner.queue.wait_idle("dir")
        assert inside.is_settled
        late, own = runner.put("dir/late"), runner.put("dir/own")
        runner.add(late, outside)
        eventually(lambda: outside.is_settled)
        runner.queue.run_until_finished(own)
        assert own.is_settled
        assert late.seq not in runner.ran
    eventually(lambda: late.is_settled)


def test_a_drain_sends_the_files_below_a_path_and_reports_a_rest(runner: Runner) -> None:
    inside, outside = runner.put("dir/file"), runner.put("other")
    runner.add(inside, outside, delay=NEVER)
    assert runner.queue.drain(20.0, "dir")
    assert (inside.is_settled, outside.is_settled) == (True, False)
    unsent = {path: runner.state.has_anything_to_send(path) for path in ("dir", "other", "")}
    assert unsent == {"dir": False, "other": True, "": True}
    runner.failures[outside.seq] = [UnavailableError("not now")] * 1000
    assert not runner.queue.drain(0.1, "")
    runner.failures.clear()
    assert runner.queue.drain(20.0, "")


def test_a_name_is_idle_when_its_started_change_is_placed(runner: Runner) -> None:
    """vfs/semantics.md 4, rename of a directory; a change that was not begun goes along, and costs no request."""
    begun, unbegun = runner.put("dir/a", started=True), runner.put("dir/b")
    unlinked = runner.state.plan_change(Verb.REMOVE, "dir/d", stage=Stage.STAGED)
    elsewhere = runner.state.plan_change(Verb.REMOVE, "other", stage=Stage.STAGED)
    runner.add(begun, unbegun, unlinked, elsewhere, delay=NEVER)
    runner.queue.wait_idle("dir")
    assert (set(runner.ran), begun.is_settled, unlinked.is_settled) == ({begun.seq, unlinked.seq}, True, True)


def test_a_name_is_idle_when_its_cancelled_change_is_undone(runner: Runner) -> None:
    """save/protocol.md R10: while a save is taken back, its item may still be on the server under the target's name."""
    runner.clean.clear()
    work = cancelled(runner.state, "dir/a", tid="begun")
    thread = waiting(lambda: runner.queue.wait_idle("dir"))
    eventually(lambda: work.is_running)
    assert thread.is_alive()
    runner.clean.set()
    thread.join(20)
    assert work.stage is Stage.DONE


# -- items that remain on the server


@pytest.mark.parametrize("unsure", [0.0, NEVER])
def test_no_change_starts_while_too_many_items_are_hidden(runner: Runner, unsure: float) -> None:
    """vfs/semantics.md 6, Bounds; save/protocol.md R7: an aside that has to wait stands in the workspace as any other; 4: an
    unlink hides nothing, and it makes room on a full server."""
    runner.limit(max_hiding=2)
    runner.clean.clear()
    until = unsure and time.monotonic() + unsure
    asides = [Aside(name, name, moved=True, unsure_until=until) for name in "ab"]
    first, second, third = (runner.put(name, asides=asides) for name in "123")
    runner.add(first, second, third)
    eventually(lambda: first.is_settled and second.is_settled)
    going_on = runner.put("going on", started=True)
    committed, unlinked = (runner.state.plan_change(Verb.REMOVE, name, stage=Stage.STAGED) for name in "45")
    runner.add(going_on, unlinked)
    eventually(lambda: going_on.is_settled and unlinked.is_settled)
    runner.commit(committed)
    assert committed.is_settled
    with pytest.raises(OutOfTimeError, match="3 is being saved"):
        runner.commit(third, seconds=0.05)
    assert third.seq not in runner.ran, "fsync waits too"
    for aside in asides:
        aside.unsure_until = 0.0
    runner.clean.set()
    eventually(lambda: third.is_settled)


@pytest.mark.parametrize(
    "error",
    [InvalidRequestError("not yours to delete"), AnswerLostError("answered 500")],
    ids=["refused", "failed"],
)
def test_an_item_that_is_not_deleted_blocks_no_save(runner: Runner, error: ApiError) -> None:
    """vfs/semantics.md 6.22; save/protocol.md R7: an aside may have to wait after that, and the failure is known that long."""
    runner.limit(max_hiding=1)
    runner.clean.clear()
    runner.add(kept := runner.put("1", asides=[aside := unsure_aside()]))
    eventually(lambda: kept.is_settled)
    runner.failures[kept.seq] = [error]
    runner.clean.set()
    eventually(lambda: runner.finished == [kept.seq] * 2 and not kept.is_running)
    runner.commit(runner.put("2"))
    assert (kept.cleanup_failed, kept.error, kept.attempts) == (True, error, 1)
    assert (kept.asides, kept.stage) == ([aside], Stage.PLACED), (
        "its item stays, and so does the record of it"
    )
    aside.unsure_until = 0.0
    runner.add(kept)
    eventually(lambda: kept.stage is Stage.DONE)


@pytest.mark.parametrize("stage", [Stage.PLACED, Stage.CANCELLED])
def test_what_an_earlier_mount_has_left_to_clean_up_blocks_no_save(runner: Runner, stage: Stage) -> None:
    """vfs/semantics.md 6.15: it may be any number, and each waits until no request of that mount can be carried out."""
    runner.limit(max_hiding=1)
    left = runner.put("1", asides=[unsure_aside()], stage=stage)
    runner.add(left)
    eventually(lambda: runner.finished == [left.seq] and not left.is_running)
    runner.commit(runner.put("2"))
    assert (left.stage, left.cleanup_failed) == (stage, False)


@pytest.mark.parametrize("stage", [Stage.PLACED, Stage.CANCELLED])
def test_only_asides_wait_for_minutes_until_a_repeated_cleanup(runner: Runner, stage: Stage) -> None:
    """vfs/semantics.md 6.22: a cancelled save is tried again within seconds: it may hold its name."""
    runner.limit(max_delay=60.0)
    change = runner.put("1", asides=[Aside("x", "h")], attempts=16, stage=stage)
    runner.failures[change.seq] = [UnavailableError("answered 500")]
    runner.add(change)
    eventually(lambda: change.attempts == 17)
    assert (change.due > time.monotonic() + 90) is (stage is Stage.PLACED)


def test_an_unmount_does_not_wait_for_delayed_asides(runner: Runner) -> None:
    """save/protocol.md R7: an unmount leaves such asides to the next mount's journal, and counts as clean."""
    waits, created = runner.put("1", asides=[unsure_aside()]), runner.put("2")
    runner.add(waits, created)
    eventually(lambda: waits.is_settled and not waits.is_running and runner.finished)
    assert runner.queue.wait_and_count_uncleaned(20.0, includes_waiting=False) == 0
    assert runner.queue.wait_and_count_uncleaned(0.01, includes_waiting=True) == 1
    assert runner.finished.count(waits.seq) == 1, "it comes back when it is time"


def test_the_queue_survives_any_error(runner: Runner) -> None:
    """vfs/semantics.md 4.10: an upload that fails is tried again, and so is the choice of it."""
    runner.health.failures = [ValueError("a fault")]
    saved = runner.put("1")
    runner.add(saved)
    eventually(lambda: saved.is_settled)
    assert runner.health.failures == []


def test_stop_waits_for_running_changes_and_starts_none(runner: Runner) -> None:
    running, waits = running_change(runner, runner.put("1")), runner.put("2")
    thread = waiting(runner.queue.stop)
    eventually(lambda: "jobfs-queue" not in {thread.name for thread in threading.enumerate()})
    runner.add(waits)
    runner.gate.set()
    thread.join(20)
    assert (running.is_settled, runner.ran) == (True, [running.seq])
