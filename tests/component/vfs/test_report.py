"""The mount's own reports: status, info of one path, and the files below `.jobfs/`."""

from __future__ import annotations

import errno
import json
import os

import pytest
from tests.support.files import errno_from
from tests.support.serverside import hidden
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Workspace

from jobfs import names
from jobfs.document import Status
from jobfs.emulator import Server
from jobfs.state.records import Stage, Verb
from jobfs.vfs import report


def test_the_control_directory_tells_of_the_mount(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 6.7: inside the mount, hidden from readdir: `.jobfs/job.json`, `status.json`, `pending`."""
    work.write("unsent", b"x")
    assert work.names() == ["unsent"]
    assert work.names(".jobfs") == ["job.json", "pending", "status.json"]
    assert json.loads(work.read(".jobfs/job.json"))["expertJob"]["id"] == server.job
    told = json.loads(work.read(".jobfs/status.json"))
    assert told["unsent"][0]["path"] == "unsent"
    assert told.keys() == work.vfs.status().keys() == Status.__annotations__.keys()
    assert work.read(".jobfs/pending") == b"unsent\n"
    assert errno_from(work.vfs.getattr, ".jobfs/other") == errno.ENOENT
    assert errno_from(work.vfs.listdir, ".jobfs/pending") == errno.ENOTDIR


def test_a_name_with_control_characters_is_one_harmless_line_of_the_pending_list(work: Workspace) -> None:
    work.write("a\x1b]0;owned\x07b\nfine\u202e", b"x")
    assert work.read(".jobfs/pending") == b"a\\x1b]0;owned\\x07b\\nfine\\u202e\n"


def test_info_of_a_path_follows_its_state(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 2.9: `jobfs info PATH`: what the server knows, state (clean, dirty, failed, conflict), error."""
    second = "file.conflict-20260101T000000Z"
    server.store.seed({"file": "x", second: "the job's"}, age=60)
    assert [work.vfs.info(path)["state"] for path in ("file", second)] == ["clean", "conflict"]
    work.write("file", b"changed")
    info = work.vfs.info("file")
    assert (info["state"], info["size"], info["lifecycle"]) == ("dirty", 7, "expertJob")
    work.drain()
    info = work.vfs.info("file")
    assert (info["state"], info["id"], info["owner"]) == ("clean", server.store.item_at("file").id, "user")
    assert info.keys() >= {"permission", "mime_type", "key", "created_at", "updated_at", "error"}
    work.write("file~", b"scratch")
    assert work.vfs.info("file~")["state"] == "local"


def test_unsent_files_are_reported_with_their_reason(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 6: `jobfs status`: unsent and failed files."""
    work.write("dir~", b"scratch")
    fh = work.opened("open")
    work.vfs.write(fh, b"12", 0)
    work.write("closed", b"123")
    told = {entry["path"]: entry for entry in work.vfs.status()["unsent"]}
    assert {path: (entry["size"], entry["state"]) for path, entry in told.items()} == {
        "open": (2, "dirty"),
        "closed": (3, "staging"),
    }
    work.vfs.release(fh)
    server.faults.set_rate("error", 1.0, on="create", status=413)
    (left,) = work.vfs.flush_all("closed", 5, None)
    assert (left["path"], left["size"]) == ("closed", 3)
    assert left["reason"]
    (failed,) = work.vfs.status()["failed"]
    assert (failed["path"], failed["state"]) == ("closed", "failed")
    assert failed["reason"]
    assert b"\nclosed\tfailed: " in work.read(".jobfs/pending")
    assert [entry["path"] for entry in work.vfs.list_unsent("closed")] == ["closed"]


def test_hidden_items_that_another_mount_has_left_long_ago_are_told(server: Server, work: Workspace) -> None:
    """save/protocol.md, Recovery: the status of every mount lists foreign hidden items older than an hour."""
    for mount, age in (("f" * 12, 7200), ("e" * 12, 60), (work.mount_id, 7200)):
        server.store.seed({names.hidden_path("x", mount, "0" * 16, names.Role.ASIDE): "x"}, age=age)
    assert len(hidden(server)) == 3
    work.vfs.refresh()
    (told,) = work.vfs.status()["foreign_hidden"]
    assert "by mount ffffffffffff, or" in told["reason"]
    asked = names.hidden_path("x", work.mount_id, "1" * 16, names.Role.STAGED)
    with work.vfs._state.plan_for_caller(Verb.PUT, asked, stage=Stage.PLACED):
        assert work.vfs.status()["cleaning"] == [], "how the server takes creates is no save"


def test_the_job_is_shown_as_ended_until_it_is_continued(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 6.6: its owner may continue a job that has ended."""
    monkeypatch.setattr(report, "_INSTANCE_AGE", 0.0)  # asked for anew each time
    server.job_side(server.job).set_job(current_step=3)
    job = work.vfs.status()["job"]
    assert (job["status"], job["ended"], job["current_step"]) == ("processing", False, 3)
    assert job["model"]
    assert job["tokens"] is not None
    for state in ("completed", "exceededMaxSteps", "failed", "canceled", "expired"):
        server.job_side(server.job).set_job(status=state)
        job = work.vfs.status()["job"]
        assert (job["status"], job["ended"]) == (state, True)
        server.job_side(server.job).set_job(status="queued")
        job = work.vfs.status()["job"]
        assert (job["status"], job["ended"]) == ("queued", False)


def test_an_item_that_is_being_deleted_is_in_the_status(server: Server, work: Workspace) -> None:
    server.store.seed({"file": "old"}, age=60)
    work.write("file", b"new")
    server.faults.set_rate("error", 1.0, on="delete", status=503)
    work.vfs.flush_all(None, 1, None)
    (cleaning,) = work.vfs.status()["cleaning"]
    assert cleaning["path"] == "file"
    server.faults.clear()
    eventually(lambda: not work.vfs.status()["cleaning"])


def test_the_control_directory_is_not_changed(work: Workspace) -> None:
    assert errno_from(work.vfs.open, ".jobfs/pending", os.O_RDWR) == errno.EACCES
    assert errno_from(work.vfs.unlink, ".jobfs/pending") == errno.EPERM
    assert errno_from(work.vfs.create, ".jobfs/new", 0o644, 0, CALLER) == errno.EPERM
    assert errno_from(work.vfs.rename, ".jobfs", "other") == errno.EPERM
    assert errno_from(work.vfs.mkdir, ".jobfs", 0o755, CALLER) == errno.EPERM
