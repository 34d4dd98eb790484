"""Whatever the server refuses at whatever step of a save: the bytes are kept, the target is whole, others go on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.files import errno_from
from tests.support.interferences import REFUSALS, Fault, Scene
from tests.support.judge import Judge
from tests.support.serverside import found_on, hidden, visible
from tests.support.waiting import eventually

from jobfs.api.deadline import limit_time
from jobfs.emulator import Server
from jobfs.names import Role, hidden_path, new_transaction_id
from jobfs.save import queue

OLD, NEW = b"the old content", b"what the user has written"

STEPS = [("create", 0), ("find", 0), ("update", 0), ("update", 1), ("delete", 0), ("change", 2)]
#: Steps that go on by themselves after a look, and one after which nobody waits.
GOES_ON = {
    ("create", 0, "refuses the path"),
    ("create", 0, "refuses the request"),
    ("update", 0, "refuses the path"),
    *(("delete", 0, refusal.name) for refusal in REFUSALS),
}


@pytest.fixture
def work(server: Server, mortal: Callable[..., Mortal]) -> Mortal:
    server.store.seed({"dir/file.txt": OLD, "dir/other": b"untouched"}, age=60)
    return mortal(timeout=3.0)


@pytest.mark.parametrize(("on", "skip"), STEPS, ids=[f"{on} {skip}" for on, skip in STEPS])
@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_refusal_of_any_step_loses_nothing(
    server: Server, work: Mortal, on: str, skip: int, refusal: Fault
) -> None:
    """vfs/semantics.md 4, Nothing is forgotten; vfs/semantics.md 5.12: inside a save, 400 and 404 are findings."""
    fh = work.opened("dir/file.txt")
    work.vfs.write(fh, NEW, 0)
    # Not a rate: the step's first requests are to get through.
    times = 1000 if refusal.lasts else 1
    refuse = partial(server.faults.fail_next, on=on, skip=skip, times=times)
    refusal.act(Scene("dir/file.txt", server.store, fault=refuse))
    with limit_time(3.0):
        failed = errno_from(work.vfs.fsync, fh)
    work.vfs.release(fh)
    eventually(lambda: not any(rule.times == times for rule in server.faults.rules()), "it is refused")
    assert failed in ({0} if (on, skip, refusal.name) in GOES_ON else refusal.errnos), os.strerror(failed)
    assert work.read("dir/file.txt") == NEW, "it is readable as before"
    if failed:
        everything = [server.store.content_of(item.id) for item in server.store.items() if not item.is_dir]
        assert OLD in everything, "the server's version is whole"
        if not (refusal.lasts and on in ("update", "change")):
            # Where every update is refused, the aside can't go back either.
            assert server.store.read("dir/file.txt") == OLD
    else:
        assert server.store.read("dir/file.txt") == NEW, "the server has what was synced"
    server.faults.clear()
    # A second is short for a busy machine: a call that took longer fails, and the next one is told that nobody answers.
    eventually(lambda: errno_from(work.write, "dir/new", b"another file", fsync=True) == 0)
    assert server.store.read("dir/new") == b"another file"
    work.vfs.retry(None)
    work.settle()
    judge = Judge({"dir": None, "dir/file.txt": NEW, "dir/other": b"untouched", "dir/new": b"another file"})
    judge.excuse([OLD])  # at most what could not be judged is kept beside
    assert judge.violations(found_on(server)) == []
    assert work.vfs.status()["failed"] == []


def test_a_waiting_fsync_fails_if_another_thread_gets_the_refusal(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """vfs/semantics.md 4.2: fsync returns when the server has it, or with the error."""
    mount = mortal(write_back_delay=0.0)
    server.set(latency=300)
    server.faults.fail_next("error", on="create", times=1000, status=413, reason="Too large")
    mount.write("new", NEW)
    eventually(lambda: any(change.is_running for change in list(mount.write_back.state.changes.values())))
    fh = mount.vfs.open("new", os.O_RDWR).fh
    assert errno_from(mount.vfs.fsync, fh) == errno.EFBIG
    mount.vfs.release(fh)


@pytest.mark.parametrize("fsync", [True, False], ids=["in an fsync", "in the background"])
def test_a_newer_version_does_not_wait_for_a_refused_version(
    server: Server, mortal: Callable[..., Mortal], fsync: bool
) -> None:
    """vfs/semantics.md 4.5, 4.11: only the bytes that the server refuses are kept back."""

    def act() -> None:
        server.faults.fail_next("error", on="update", status=413, reason="Too large")
        mount.write("dir/file.txt", NEW)

    server.store.seed({"dir/file.txt": OLD}, age=60)
    mount = mortal(At("before update", 1, act))
    assert mount.read("dir/file.txt") == OLD
    mount.work(lambda: errno_from(mount.write, "dir/file.txt", NEW * 100, fsync=fsync))
    mount.settle()
    assert visible(server) == {"dir": None, "dir/file.txt": NEW}
    assert mount.read("dir/file.txt") == NEW


@pytest.mark.parametrize("refused", [0, 1])
def test_a_stray_item_that_cannot_be_moved_keeps_no_other_hidden(
    server: Server, work: Mortal, refused: int
) -> None:
    """save/protocol.md R4: every hidden item of this mount that no record explains is shown, and never deleted."""
    server.set(read_only="enforced")
    paths = [hidden_path("dir/file.txt", work.mount_id, new_transaction_id(), Role.STAGED) for _ in range(2)]
    server.store.seed(dict.fromkeys(paths, "stray"))
    server.store.set_permission(paths[refused], "readOnly")
    eventually(lambda: work.names("dir") and hidden(server) == [paths[refused]])


@pytest.mark.parametrize("status", [500, 403])
def test_saves_whose_asides_cannot_be_deleted_block_no_other(
    server: Server, mortal: Callable[..., Mortal], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """vfs/semantics.md 6.22: the status names them with the reason; they are cleaned up once the server deletes again."""
    monkeypatch.setattr(queue, "LIMITS", replace(queue.LIMITS, max_hiding=2))
    files = [f"file{number}" for number in range(6)]
    server.store.seed(dict.fromkeys(files, OLD), age=60)
    work = mortal(request_lifetime=0.5, timeout=5.0)
    server.faults.set_rate("error", 1.0, on="delete", status=status, reason="no deletes today")
    for name in files:
        assert work.read(name) == OLD
        work.write(name, NEW, fsync=True)

    def failed() -> dict[str, str]:
        entries = work.vfs.status()["cleaning"]
        return {entry["path"]: entry["reason"] for entry in entries if entry["state"] == "failed"}

    eventually(lambda: sorted(failed()) == files)
    assert all("no deletes today" in reason for reason in failed().values())
    assert sum("-aside-" in path for path in hidden(server)) == len(files)
    server.faults.clear()
    work.settle(dict.fromkeys(files, NEW))
