"""The status document from given facts, and the files of `.jobfs/`."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any, get_args, get_type_hints, is_typeddict

import pytest
from tests.support.files import errno_from
from tests.support.items import hidden
from tests.support.waiting import eventually

from jobfs.api.deadline import remaining_time, steady_time
from jobfs.document import ENDED, Status
from jobfs.errors import TooLargeError, UnavailableError
from jobfs.names import Role
from jobfs.nodes import Lifecycle
from jobfs.state.directory import acquire_state_directory
from jobfs.state.journal import Journal
from jobfs.state.records import Stage, Verb

from .world import CALLER, World


def status_of(world: World) -> Status:
    """The status; it and its parts have the fields of the document."""
    status, kinds = world.report.status(), get_type_hints(Status)
    assert status.keys() == kinds.keys()
    parts: dict[str, Any] = {**status}
    for name, value in parts.items():
        kind = next(iter(get_args(kinds[name])), kinds[name])  # of a list: that of its entries
        for part in value if isinstance(value, list) else [value]:
            assert not is_typeddict(kind) or part.keys() == kind.__annotations__.keys(), name
    return status


def test_the_status_has_each_field_of_its_document(world: World) -> None:
    """vfs/semantics.md 6.6, 6.7."""
    world.seed({"file": b"123"})
    status = status_of(world)
    assert (status["items"], status["problems"], status["unsent"], status["read_only"]) == (1, [], [], False)
    assert (status["job_id"], status["state_dir"]) == ("j" * 24, str(world.slot.path))
    assert json.loads(world.report.read_file("status.json")).keys() == status.keys()


def test_the_job_is_as_the_server_reported_it(world: World) -> None:
    """vfs/semantics.md 6.6: a value of another type than the reference says is not known."""
    usage = {"totalTokens": 7}
    progress = {"status": "processing", "currentStep": 3, "totalSteps": "many"}
    world.server.job = {**progress, "model": "", "usage": usage}
    job = world.report.fetch_job()
    assert (job["status"], job["ended"]) == ("processing", False)
    assert (job["current_step"], job["total_steps"]) == (3, None)
    assert (job["model"], job["tokens"]) == (None, 7)
    world.server.job = {"model": "large", "usage": "none"}
    job = world.report.fetch_job()
    assert (job["ended"], job["model"], job["tokens"]) == (None, "large", None)


@pytest.mark.parametrize("status", sorted(ENDED))
def test_a_job_that_has_ended_may_be_continued(world: World, status: str) -> None:
    """vfs/semantics.md 6.6, 7.12: the report is about the present."""
    shown = []
    for world.server.job in ({"status": status}, {"status": "queued"}):
        shown.append(world.report.fetch_job()["ended"])
    assert shown == [True, False]


def test_a_status_requests_the_job_only_occasionally(world: World) -> None:
    """vfs/semantics.md 6.6: and for a first listing; an answer is a few seconds old at most."""
    status_of(world)
    assert world.requests() == ["job", "list"]
    status_of(world)
    world.report.read_file("job.json")
    assert world.requests() == []


def test_a_status_without_a_server_has_the_last_known_values(world: World) -> None:
    """vfs/semantics.md 6.6, 1.13: the status says why known names are served."""
    world.server.is_away = True
    status = status_of(world)
    assert (status["items"], status["snapshot_age"], status["job"]["age"]) == (None, None, None)
    assert status["server"]["stale"] is False, "nothing is known"
    world.server.is_away = False
    world.seed({"file": b"x"})
    world.server.is_away = True
    world.expire()
    world.lookup.getattr("file")
    status = status_of(world)
    assert (status["items"], status["server"]["stale"]) == (1, True)
    assert "no route to the server" in (status["listing_error"] or "")
    assert "job" not in world.requests(), "it was asked a moment ago"


def test_a_status_waits_less_than_a_second_for_the_server(world: World) -> None:
    """vfs/semantics.md 6.6: for the job and a first listing together."""
    left = list[float]()
    world.server.on_request = lambda: left.append(remaining_time())
    world.report.status()
    assert (len(left), max(left) < 1) == (2, True)


def test_news_of_the_job_are_as_old_as_the_last_answer(world: World) -> None:
    """vfs/semantics.md 6.6: a question that is not answered makes them no younger."""
    world.report.fetch_job()
    eventually(lambda: status_of(world)["job"]["age"])
    world.server.is_away = True
    with pytest.raises(UnavailableError):
        world.report.fetch_job()
    assert status_of(world)["job"]["age"]


def test_unsent_and_refused_files_are_listed_with_their_reason(world: World) -> None:
    """vfs/semantics.md 4.11, 6.6: scratch files are not; a change of names is, once it has failed."""
    world.seed({})
    world.write("scratch~", b"1")
    handle = world.files.create("open", 0o644, os.O_RDWR, CALLER)
    world.files.write(handle.fh, b"12", 0)
    world.write("dir-less", b"123")
    world.server.fail("create", TooLargeError("too large", status=413))
    assert errno_from(world.drain_file, "dir-less") == errno.EFBIG
    unsent = {entry["path"]: (entry["size"], entry["state"]) for entry in world.report.list_unsent()}
    assert unsent == {"open": (2, "dirty"), "dir-less": (3, "failed")}
    (failed,) = status_of(world)["failed"]
    assert (failed["path"], "too large" in failed["reason"]) == ("dir-less", True)
    assert [entry["path"] for entry in world.report.list_unsent("open")] == ["open"]
    first, second = world.report.read_file("pending").splitlines()
    assert (first.startswith(b"dir-less\tfailed: "), second) == (True, b"open")


def test_a_name_with_control_characters_is_one_harmless_pending_line(world: World) -> None:
    """vfs/semantics.md 6.7: the list is shown by `cat`."""
    world.seed({})
    world.write("a\x1b]0;owned\x07b\nfine\u202e", b"x")
    assert world.report.read_file("pending") == b"a\\x1b]0;owned\\x07b\\nfine\\u202e\n"


def test_a_conflict_copy_is_listed_with_the_command_that_compares_it(world: World) -> None:
    """vfs/semantics.md 4.21, 4.3: by its name alone, whether it was sent or not; a merge needs the common base."""
    time, long = "20260101T000000Z", "n" * 255
    cut = f"{long[:229]}.conflict-{time}"
    world.seed(
        {
            "a file": b"1",
            f"a file.conflict-{time}": b"2",
            f"gone.conflict-{time}": b"3",
            long: b"5",
            cut: b"6",
        }
    )
    world.write(f"a file.recovered-{time}", b"4")
    conflicts = sorted(status_of(world)["conflicts"], key=lambda entry: entry["reason"])[::-1]
    of_long, mine, gone, recovered = conflicts
    assert of_long["reason"] == f"yours: {long}; the job's: {cut}"
    assert (mine["path"], mine["reason"]) == (
        f"a file.conflict-{time}",
        f"yours: a file; the job's: a file.conflict-{time}",
    )
    assert mine["diff"] is not None
    assert mine["diff"].startswith("diff -u '")
    assert mine["merge"] is None
    assert (gone["diff"], gone["reason"].startswith("gone is gone; ")) == (None, True)
    assert recovered["reason"].startswith("as it was saved: a file; of a save that was not finished: ")


def test_a_conflict_with_a_kept_base_is_listed_with_the_merge_command(world: World) -> None:
    """vfs/semantics.md 4.61."""
    world.seed({"file": b"both began with this"})
    handle = world.open("file", pid=CALLER.pid)
    world.files.write(handle.fh, b"ours", 0)
    world.put("file", b"the job's")
    world.files.fsync(handle.fh)
    (change,) = world.state.changes.values()
    world.write_back.cleanup.clean_up(change)
    world.list_again()
    (conflict,) = status_of(world)["conflicts"]
    assert conflict["merge"] == f"jobfs merge {world.home}/mnt/file"


def test_hidden_items_of_others_are_reported_after_an_hour(world: World) -> None:
    """save/protocol.md, Recovery: the status of every mount lists foreign hidden items older than an hour."""
    world.server.server_time_offset = 7200
    now = int((steady_time() + 7200) * 1e9)
    for mount, age in (("f" * 12, 3700), ("e" * 12, 3500), (world.slot.mount_id, 3700)):
        path = hidden("x", mount=mount)
        world.put(path, b"x", updated_ns=now - age * 1_000_000_000)
    world.list_again()
    (found,) = status_of(world)["foreign_hidden"]
    assert found["path"] == hidden("x", mount="f" * 12)
    assert "by mount ffffffffffff, or" in found["reason"]


def test_items_that_are_not_shown_are_in_the_status(world: World) -> None:
    """vfs/semantics.md 1.18, 1.20."""
    world.server.put("covered", "file", b"1", lifecycle=Lifecycle.APPLICATION)
    world.seed({"file": b"2", "dir/../file": b"3"})
    status = status_of(world)
    assert [entry["path"] for entry in status["shadowed"]] == ["file"]
    assert [entry["path"] for entry in status["hostile"]] == ["dir/../file"]


def test_a_problem_names_the_command_that_recovers_an_ended_mount(world: World) -> None:
    """vfs/semantics.md 6.6: with the state directory of this mount."""
    state = world.settings.state_dir
    ended = acquire_state_directory(state, "j" * 24, str(world.home / "ended"), world.server.base_url)
    (ended.path / "journal.db").write_bytes(b"unreadable")
    nothing_left = acquire_state_directory(state, "j" * 24, str(world.home / "other"), world.server.base_url)
    Journal(nothing_left.path / "journal.db").close()
    for place in (ended, nothing_left):
        place.close()
    status, directory = status_of(world), str(world.home / "ended")
    assert status["other_slots"] == [{"path": str(ended.path), "directory": directory, "left": None}]
    (problem,) = status["problems"]
    assert problem.startswith(f"an ended mount at {world.home / 'ended'} has left unsent work in ")
    assert ": run jobfs recover " in problem
    assert str(state) in problem.partition(": run ")[2]


def test_cleanup_is_listed_but_for_probes_of_the_server(world: World) -> None:
    """save/protocol.md R4: how the server handles creates is no save. vfs/semantics.md 6.22: what failed, and why."""
    world.seed({})
    probe = hidden("x", Role.STAGED, mount=world.slot.mount_id)
    for target in (probe, "file"):
        world.state.plan_change(Verb.PUT, target, stage=Stage.PLACED)
    error = UnavailableError("answered 500")
    world.state.plan_change(Verb.PUT, "cancelled", stage=Stage.CANCELLED, error=error, attempts=3)
    world.state.plan_change(Verb.PUT, "unsent", error=error)
    told = [(e["path"], e["attempts"], e["reason"], e["state"]) for e in status_of(world)["cleaning"]]
    assert told == [("file", 0, "", "waiting"), ("cancelled", 3, "answered 500", "failed")]


def test_the_files_of_the_control_directory_are_read_only(world: World) -> None:
    """vfs/semantics.md 6.7: an open one shows what it held when it was opened."""
    world.server.job = {"id": "job"}
    assert json.loads(world.report.read_file("job.json"))["expertJob"] == {"id": "job"}
    assert errno_from(world.report.read_file, "pending", os.O_RDWR) == errno.EACCES
    assert errno_from(world.report.read_file, "none") == errno.ENOENT
    assert errno_from(world.report.list_entries, "pending") == errno.ENOTDIR
    numbers = [world.report.attr("").ino, *(attr.ino for _, attr in world.report.list_entries(""))]
    assert len({*numbers}) == 4
    assert min(numbers) == numbers[0] > 0, "small, so that no item has them"
    size = len(world.report.read_file("job.json"))
    attr = world.report.attr("job.json")
    assert attr[1:6] == (stat.S_IFREG | 0o400, 1, os.geteuid(), os.getegid(), size)
    assert attr.atime_ns == attr.mtime_ns == attr.ctime_ns > world.report.attr("").mtime_ns > 0
    assert world.report.attr("job.json", size=3).size == 3
