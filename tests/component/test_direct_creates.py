"""New files in one request, on servers that were seen to reject a create at an existing path (save/protocol.md R9)."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Literal

import pytest
from tests.support.files import errno_from
from tests.support.serverside import doubled, hidden, visible
from tests.support.waiting import eventually
from tests.support.workspaces import Start, Workspace, wait_until_settled

from jobfs.emulator import Server
from jobfs.nodes import Kind
from jobfs.save import writeback
from jobfs.trial.questions import TELLTALE


def create_files(server: Server, work: Workspace, count: int) -> dict[str, bytes | None]:
    files: dict[str, bytes | None] = {f"file{number}": b"content %d" % number for number in range(count)}
    for name, content in files.items():
        work.write(name, content or b"", fsync=True)
    return files


@pytest.mark.parametrize("create_existing", ["reject", "duplicate"])
def test_new_files_are_created_directly_only_after_a_seen_rejection(
    server: Server, work: Workspace, create_existing: Literal["reject", "duplicate"]
) -> None:
    """save/protocol.md R9: straight to T only after a 400 to a create at the path of an own hidden item."""
    server.set(create_existing=create_existing)
    files = create_files(server, work, 1)
    assert [entry.operation for entry in server.log.changes()] == ["create", "update"], "nothing is known yet"
    files = create_files(server, work, 3)
    eventually(lambda: work.write_back.context.server.facts.rejects.get(Kind.FILE) is not None)
    wait_until_settled(work)
    assert work.write_back.context.server.facts.rejects.get(Kind.FILE) is (create_existing == "reject")
    server.log.clear()
    work.write("another", b"one more", fsync=True)
    requests = [entry.operation for entry in server.log.changes()]
    assert requests == (["create"] if create_existing == "reject" else ["create", "update"])
    assert visible(server) == {**files, "another": b"one more"}
    assert hidden(server) == []
    assert doubled(server) == []


def test_directories_are_created_directly_only_where_known_to_be_safe(
    server: Server, work: Workspace
) -> None:
    """save/protocol.md R9: the server has rejected a second create of the same kind."""
    for name in ("a", "b", "c", "f"):
        work.mkdir(name)
    eventually(lambda: work.write_back.context.server.facts.rejects.get(Kind.DIRECTORY))
    wait_until_settled(work)
    server.log.clear()
    work.mkdir("c/d")
    assert [entry.operation for entry in server.log.changes()] == ["create"]
    assert errno_from(work.mkdir, "c/d") == errno.EEXIST
    server.store.seed({"c/e": None})
    assert errno_from(work.mkdir, "c/e") == errno.EEXIST
    assert visible(server) == dict.fromkeys(("a", "b", "c", "f", "c/d", "c/e"))
    assert doubled(server) == []


def test_a_directory_whose_create_gets_an_error_does_not_stay_hidden(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md R4: nobody lists anything, and the last listing began before the create was carried out."""
    # Long enough that the mount processes that listing after the request's lifetime.
    monkeypatch.setattr(writeback, "INTERVALS", replace(writeback.INTERVALS, tidy=0.4))
    work = start(request_lifetime=0.1)
    assert work.names() == []
    server.faults.fail_next("error_after", on="create", path=f"*-staged-{TELLTALE}", skip=2)
    for name in ("a", "b", "c", "f"):
        work.mkdir(name)
    eventually(lambda: server.faults.injected_count and not work.state.changes)
    eventually(lambda: not hidden(server), lambda: f"{hidden(server)}")
    assert visible(server) == dict.fromkeys(("a", "b", "c", "f"))
