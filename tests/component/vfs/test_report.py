"""The mount's own reports: status, info of one path, and the files below `.jobfs/`."""

from __future__ import annotations

import errno
import json

from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace

from jobfs.document import Status
from jobfs.emulator import Server


def test_the_control_directory_shows_job_status_and_pending_files(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 6.7: inside the mount, hidden from readdir: `.jobfs/job.json`, `status.json`, `pending`."""
    work.write("unsent", b"x")
    assert work.names() == ["unsent"]
    assert work.names(".jobfs") == ["job.json", "pending", "status.json"]
    assert json.loads(work.read(".jobfs/job.json"))["expertJob"]["id"] == server.job
    report = json.loads(work.read(".jobfs/status.json"))
    assert report["unsent"][0]["path"] == "unsent"
    assert report.keys() == work.vfs.status().keys() == Status.__annotations__.keys()
    assert work.read(".jobfs/pending") == b"unsent\n"
    assert errno_from(work.vfs.getattr, ".jobfs/other") == errno.ENOENT
    assert errno_from(work.vfs.listdir, ".jobfs/pending") == errno.ENOTDIR


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
    report = {entry["path"]: entry for entry in work.vfs.status()["unsent"]}
    assert {path: (entry["size"], entry["state"]) for path, entry in report.items()} == {
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


def test_an_item_that_is_being_deleted_is_in_the_status(server: Server, work: Workspace) -> None:
    server.store.seed({"file": "old"}, age=60)
    work.write("file", b"new")
    server.faults.set_rate("error", 1.0, on="delete", status=503)
    work.vfs.flush_all(None, 1, None)
    (cleaning,) = work.vfs.status()["cleaning"]
    assert cleaning["path"] == "file"
    server.faults.clear()
    eventually(lambda: not work.vfs.status()["cleaning"])
